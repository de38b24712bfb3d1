#!/usr/bin/env bash
# Trains on one TPU VM or a slice of several hosts: create, install, train on every host, fetch the run, delete.
#
#   launch/tpu_vm/run.sh --name=N --zone=Z --project=P --type=v6e-8 --config=FILE[:PRESET] --workdir=DIR [FLAGS] \
#     [-- --config.FIELD=VALUE ...]
#
#   --name      name of the machine to create, and to delete at the end
#   --zone, --project
#   --type      accelerator type: v6e-8, v5litepod-16, v5p-8, v4-32, ...
#   --config, --workdir   as in python -m alignjax.train, seen from the machine
#   --version   runtime image; default: by type
#   --bucket    Cloud Storage bucket, mounted at /bucket; needed with several hosts: --workdir=/bucket/runs/mine
#   --output    where the run's folder is put when there is no bucket; default NAME.tar.gz
#   --secret    name of a secret in Secret Manager and of the environment variable that gets it
#   --spot      a machine that may be taken away; see ../queued_resources for one that comes back
#   --keep      do not delete the machine
#   --dry_run   print the commands and run none
#
# Exit status: that of the command that failed, training's included; 2 also for a missing flag.

set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "$0")/../common.sh"
# shellcheck source=launch/tpu.sh
source "$(dirname "$0")/../tpu.sh"

flags=(name zone project type config workdir version bucket output secret)
switches=(spot keep dry_run)
name='' zone='' project='' type='' config='' workdir='' version='' bucket='' output='' secret=''
spot='' keep='' dry_run=''
parse "$@"
require name zone project type config workdir
require_name
output=${output:-$name.tar.gz}

# shellcheck disable=SC2329  # called when the script ends
release() { run gcloud compute tpus tpu-vm delete "$name" --zone="$zone" --project="$project" --quiet; }

fetch() {
  on_workers 0 "cd alignjax && bash launch/worker.sh pack $(remote "$workdir")" &&
    run gcloud compute tpus tpu-vm scp "$name:run.tar.gz" "$output" \
      --zone="$zone" --project="$project" --quiet --worker=0
}

refuse_existing tpu-vm
clean_up_at_exit
created="the TPU VM $name" # before it is: an interrupted creation may leave one behind
run gcloud compute tpus tpu-vm create "$name" --zone="$zone" --project="$project" --quiet \
  --accelerator-type="$type" --version="${version:-$(runtime_version "$type")}" ${spot:+--spot}
install_on_workers
status=0
train_on_workers || status=$?
if [[ -z $bucket ]]; then
  # Also after a failure: the same command resumes from the folder.
  fetched=0
  fetch || fetched=$?
  if ((status == 0)); then status=$fetched; fi
fi
exit "$status"
