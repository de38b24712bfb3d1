#!/usr/bin/env bash
# What runs on each machine of a TPU slice, in the project's folder:
#
#   worker.sh setup EXTRA [BUCKET]     Python, the project with EXTRA (tpu, cuda); BUCKET mounted at /bucket
#   worker.sh start SECRET ARGS...     python -m alignjax.train ARGS, apart from this connection; SECRET may be ''
#   worker.sh follow                   its output, then its exit status
#   worker.sh stop                     a signal to it: it saves its progress and ends with status 75
#   worker.sh pack WORKDIR             the run's folder into ~/run.tar.gz

set -euo pipefail

state=.launch # log, pid and status of the training

# The images have a Python that is too old or an apt that is locked after boot; uv needs neither.
setup() {
  local extra=$1 bucket=${2:-}
  # The variable is for the newer images, whose pip refuses to install anything without it.
  PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --quiet --user uv
  if [[ ! -x .venv/bin/python ]]; then python3 -m uv venv --quiet --python=3.12 .venv; fi
  python3 -m uv pip install --quiet --python=.venv/bin/python --editable ".[$extra]"
  if [[ $bucket ]]; then mount_bucket "$bucket"; fi
}

mount_bucket() {
  if mountpoint -q /bucket; then return; fi
  command -v gcsfuse >/dev/null || sudo apt-get -o DPkg::Lock::Timeout=600 install --yes gcsfuse
  sudo mkdir -p /bucket
  sudo chown "$(id -u)" /bucket
  # A checkpoint is written under another name and then moved, which is a rename of a folder.
  gcsfuse --implicit-dirs --rename-dir-limit=100000 "$1" /bucket
}

# The status file comes first: where nobody collects a process that has ended, its pid still counts as one.
running() { [[ -e $state/pid && ! -e $state/status ]] && kill -0 "$(<"$state/pid")" 2>/dev/null; }

start() {
  local secret=$1 value
  shift
  # gcloud repeats a command whose connection broke; a second training would find the chips taken.
  if running; then return; fi
  mkdir -p "$state"
  rm -f "$state/pid" "$state/status"
  if [[ $secret ]]; then
    # In two steps: the status of `export` would hide that of gcloud.
    value=$(gcloud secrets versions access latest --secret="$secret")
    export "$secret=$value"
  fi
  # shellcheck disable=SC2016  # expanded by the inner bash
  nohup setsid bash -c '"$@"; echo $? >"$0/status.new"; mv "$0/status.new" "$0/status"' \
    "$state" .venv/bin/python -m alignjax.train --distributed "$@" </dev/null >"$state/log" 2>&1 &
  echo $! >"$state/pid"
}

follow() {
  while running; do sleep "${FOLLOW_SECONDS:-1}"; done &
  # When the loop is gone it prints what is left and ends.
  tail --lines=+1 --follow --sleep-interval="${FOLLOW_SECONDS:-1}" --pid=$! "$state/log"
  if [[ ! -e $state/status ]]; then
    echo 'worker.sh: training was killed and left no exit status; its last lines are above.' >&2
    exit 1
  fi
  exit "$(<"$state/status")"
}

stop() { pkill -TERM --parent "$(<"$state/pid")"; }

pack() { tar --create --gzip --file="$HOME/run.tar.gz" -- "$1"; }

case ${1:-} in
  setup | start | follow | stop | pack) "$@" ;;
  *)
    echo "worker.sh: '${1:-}' is not setup, start, follow, stop or pack." >&2
    exit 2
    ;;
esac
