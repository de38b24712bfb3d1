#!/usr/bin/env bash
# Trains on a TPU slice or the GPUs of one machine by SkyPilot, on whatever cloud has them.
#
#   launch/skypilot/run.sh --name=N --accelerator=tpu-v6e-8 --bucket=gs://B --config=FILE[:PRESET] \
#     --workdir=/bucket/DIR [FLAGS] [-- --config.FIELD=VALUE ...]
#
#   --name      name of the cluster, or of the managed job with --spot
#   --accelerator   tpu-v6e-8, tpu-v5litepod-16, ...; H100:8, A100:1, ...
#   --bucket    gs://..., s3://...: mounted at /bucket
#   --config, --workdir   as in python -m alignjax.train, seen from the machine
#   --infra     CLOUD[/REGION[/ZONE]]; default: the cheapest that has it
#   --secret    name of an environment variable that is set here and that training needs
#   --spot      a managed job on spot machines: recovers from preemptions, deletes its machines itself
#   --keep      do not take the cluster down; with --spot: leave the job when this script is interrupted
#   --dry_run   print the commands and run none
#
# Exit status: that of sky, which gives 100 for every training that failed; 2 for a missing or wrong flag.

set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "$0")/../common.sh"

flags=(name accelerator bucket config workdir infra secret)
switches=(spot keep dry_run)
name='' accelerator='' bucket='' config='' workdir='' infra='' secret=''
spot='' keep='' dry_run=''
parse "$@"
require name accelerator bucket config workdir
require_name
[[ $bucket == *://* ]] || fail "--bucket is '$bucket', must be an address like gs://NAME or s3://NAME."
[[ $workdir == /bucket/* ]] || fail "--workdir is '$workdir', must be in /bucket: all else goes with the machine."
[[ $secret =~ ^[A-Za-z_0-9]*$ ]] || fail '--secret is a name of an environment variable; its value stays in there.'

task=$root/launch/skypilot/gpu.yaml
if [[ $accelerator == tpu-* ]]; then task=$root/launch/skypilot/tpu.yaml; fi
# Quoted for bash, which runs the task: in one line, which a variable carries better than several.
args=$(quote "--config=$config" "--workdir=$workdir" "${train_args[@]}")
options=(--yes --gpus="$accelerator" --workdir="$root" --env="ALIGNJAX_BUCKET=$bucket" --env="ALIGNJAX_ARGS=$args")
if [[ $infra ]]; then options+=(--infra="$infra"); fi
if [[ $secret ]]; then options+=(--secret="$secret"); fi

# shellcheck disable=SC2329  # called when the script ends
release() {
  if [[ $spot ]]; then
    run sky jobs cancel --name="$name" --yes
  else
    run sky down "$name" --yes
  fi
}

clean_up_at_exit
status=0
if [[ $spot ]]; then
  created="the managed job $name"
  run sky jobs launch --name="$name" --use-spot "${options[@]}" "$task" || status=$?
  # Ended by itself, done or failed: its machines are gone and there is nothing to cancel.
  if ((status == 0 || status == 100)); then created=''; fi
else
  existing=''
  ask existing '[]' sky status --output=json
  if [[ $existing =~ \"name\":\ *\"$name\" ]]; then
    fail "--name=$name exists already; choose another or take it down."
  fi
  created="the cluster $name"
  run sky launch --cluster="$name" --no-use-spot "${options[@]}" "$task" || status=$?
fi
exit "$status"
