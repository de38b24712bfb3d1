#!/usr/bin/env bash
# Trains on spot TPUs through queued resources: request, wait, install, train; after a preemption request again and
# resume from the same --workdir.
#
#   launch/queued_resources/run.sh --name=N --zone=Z --project=P --type=v6e-8 --bucket=B \
#     --config=FILE[:PRESET] --workdir=/bucket/DIR [FLAGS] [-- --config.FIELD=VALUE ...]
#
#   --name      name of the request and of its machine; deleted at the end
#   --zone, --project
#   --type      accelerator type: v6e-8, v5litepod-16, v5p-8, v4-32, ...
#   --bucket    Cloud Storage bucket, mounted at /bucket: what is on the machine itself goes with it
#   --config, --workdir   as in python -m alignjax.train, seen from the machine
#   --version   runtime image; default: by type
#   --secret    name of a secret in Secret Manager and of the environment variable that gets it
#   --max_restarts   how often to resume after a preemption or a signal; default 20
#   --poll      seconds between two looks at the request; default 30
#   --on_demand a machine that is not taken away
#   --keep      do not delete the request and its machine
#   --dry_run   print the commands of an undisturbed run and run none
#
# Exit status: that of training. 0, 2 (bad input) and 3 (constraints cannot be met) are final; 75 (stopped by a
# signal, progress saved) resumes; any other ends here if the machine is still there and resumes if it is gone.

set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "$0")/../common.sh"
# shellcheck source=launch/tpu.sh
source "$(dirname "$0")/../tpu.sh"

flags=(name zone project type config workdir version bucket secret max_restarts poll)
switches=(on_demand keep dry_run)
name='' zone='' project='' type='' config='' workdir='' version='' bucket='' secret='' max_restarts=20 poll=30
on_demand='' keep='' dry_run=''
parse "$@"
require name zone project type bucket config workdir
require_name
require_number max_restarts poll
[[ $workdir == /bucket/* ]] || fail "--workdir is '$workdir', must be in /bucket: all else is lost by a preemption."

spot=--spot
if [[ $on_demand ]]; then spot=''; fi

create() {
  run gcloud compute tpus queued-resources create "$name" --node-id="$name" --zone="$zone" --project="$project" \
    --quiet --accelerator-type="$type" --runtime-version="${version:-$(runtime_version "$type")}" ${spot:+"$spot"}
}

# shellcheck disable=SC2329  # called when the script ends
release() {
  # --force: the machine goes too.
  run gcloud compute tpus queued-resources delete "$name" --zone="$zone" --project="$project" --force --quiet
}

state=''
look() {
  local try
  # Several times: a broken connection of this machine must not look like a preemption.
  for try in 1 2 3; do
    if ((try > 1)); then pause "$poll"; fi
    ask state ACTIVE gcloud compute tpus queued-resources describe "$name" --zone="$zone" --project="$project" \
      --format='value(state.state)' && return
  done
  return 1
}

# Status 1: the request will not become active any more.
wait_until_active() {
  while look; do
    case $state in
      ACTIVE) return 0 ;;
      FAILED | SUSPENDING | SUSPENDED) return 1 ;;
    esac
    pause "$poll"
  done
  return 1
}

# The request may say ACTIVE for a while after its machine is gone, so that both are asked.
alive() {
  local node=''
  pause "$poll"
  look && [[ $state == ACTIVE ]] &&
    ask node READY gcloud compute tpus tpu-vm describe "$name" --zone="$zone" --project="$project" \
      --format='value(state)' && [[ $node == READY ]]
}

refuse_existing queued-resources
clean_up_at_exit
created="the queued resource $name" # before it is: an interrupted creation may leave one behind
create
restarts=0
while true; do
  status=0
  if wait_until_active; then
    { install_on_workers && train_on_workers; } || status=$?
  elif [[ $state == FAILED ]]; then
    note "the request failed: no such capacity, quota or image in $zone."
    exit 1
  else
    status=1 # preempted before anything ran
  fi
  case $status in 0 | 2 | 3) exit "$status" ;; esac
  if alive; then
    if ((status != 75)); then exit "$status"; fi
    again='' # stopped by a signal, and the machine is as it was
  else
    again=yes
  fi
  if ((++restarts > max_restarts)); then
    note "given up after $max_restarts restarts; run the same command to resume."
    exit "$status"
  fi
  note "resuming, restart $restarts of $max_restarts."
  if [[ $again ]]; then
    release
    create
  fi
done
