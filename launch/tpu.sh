# shellcheck shell=bash
# shellcheck disable=SC2154  # the variables are those of the script that sources this, after common.sh
# What tpu_vm and queued_resources do on Cloud TPU VMs; sourced, never run. Reads the variables name, zone, project,
# bucket, secret, config and workdir.

runtime_version() {
  case $1 in
    v6e-*) echo v2-alpha-tpuv6e ;;
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    *) echo tpu-ubuntu2204-base ;;
  esac
}

# refuse_existing KIND: deletes nothing that was there before.
refuse_existing() {
  local names='' listed
  ask names '' gcloud compute tpus "$1" list --zone="$zone" --project="$project" --format='value(name.basename())'
  mapfile -t listed <<<"$names"
  if contains "$name" "${listed[@]}"; then fail "--name=$name exists in $zone already; choose another or delete it."; fi
}

# on_workers WORKER COMMAND
on_workers() {
  run gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --project="$project" --quiet --worker="$1" --command="$2"
}

# The functions below join their steps by `&&`: their status is tested, and then bash ignores `set -e` in them.
install_on_workers() {
  local archive=${TMPDIR:-/tmp}/$name-project.tar.gz
  run tar --create --gzip --file="$archive" --directory="$root" \
    --exclude=./.git --exclude=./.venv --exclude=./runs --exclude=./build . &&
    run gcloud compute tpus tpu-vm scp "$archive" "$name:project.tar.gz" \
      --zone="$zone" --project="$project" --quiet --worker=all &&
    run rm -f "$archive" &&
    on_workers all "mkdir -p alignjax && tar -xzf project.tar.gz -C alignjax && cd alignjax && \
bash launch/worker.sh setup tpu $(remote "$bucket")"
}

# Training runs apart from the connection and is followed: a connection that breaks ends nothing.
train_on_workers() {
  on_workers all "cd alignjax && bash launch/worker.sh start \
$(remote "$secret" "--config=$config" "--workdir=$workdir" "${train_args[@]}")" &&
    on_workers all 'cd alignjax && bash launch/worker.sh follow'
}
