#!/usr/bin/env bash
# Submits a training to SLURM: GPUs of one node or several, queued again before each time limit until it is done.
#
#   launch/slurm/run.sh --name=N --nodes=2 --gpus=8 --time=04:00:00 --config=FILE[:PRESET] --workdir=DIR [FLAGS] \
#     [-- --config.FIELD=VALUE ...]
#
#   --name      name of the job
#   --nodes     number of nodes; default 1
#   --gpus      GPUs of each node; default 1
#   --type      type of the GPUs, where a cluster has several: h100
#   --process   gpu (default) or node: whether each GPU or each node gets one process
#   --time      time limit of one submission; default: the partition's
#   --partition, --account, --qos   as in sbatch
#   --config, --workdir   as in python -m alignjax.train; the folder must be seen by all nodes
#   --python    the interpreter on the nodes; default python
#   --output    file of the log; default NAME-%j.log
#   --dry_run   print the command and run none
#
# Prints the job's number. Statuses 0, 2 (bad input) and 3 (constraints cannot be met) end the job; 75 (stopped by a
# signal, progress saved) queues it again. Exit status: that of sbatch; 2 also for a missing or wrong flag.

set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "$0")/../common.sh"

flags=(name nodes gpus type process time partition account qos config workdir python output)
switches=(dry_run)
name='' nodes=1 gpus=1 type='' process=gpu time='' partition='' account='' qos='' config='' workdir=''
python=python output=''
dry_run=''
parse "$@"
require name nodes gpus config workdir python
require_name
require_number nodes gpus
((nodes > 0 && gpus > 0)) || fail "--nodes and --gpus must be at least 1."

export=ALL # a token that training needs comes from the environment, not from an argument
case $process in
  gpu) tasks=$gpus ;;
  node)
    tasks=1
    # Under SLURM, JAX gives a process only the GPU of its number on the node, unless it is told which are its own.
    devices=$(seq --separator=, 0 $((gpus - 1)))
    ;;
  *) fail "--process is '$process', must be gpu or node." ;;
esac

submit=(sbatch --parsable --job-name="$name" --nodes="$nodes" --gpus-per-node="${type:+$type:}$gpus"
  --ntasks-per-node="$tasks" --output="${output:-$name-%j.log}" --export="$export")
if [[ $time ]]; then submit+=(--time="$time"); fi
if [[ $partition ]]; then submit+=(--partition="$partition"); fi
if [[ $account ]]; then submit+=(--account="$account"); fi
if [[ $qos ]]; then submit+=(--qos="$qos"); fi
# By `env` and not by --export, which would take the commas for its own.
if [[ ${devices:-} ]]; then submit=(env JAX_LOCAL_DEVICE_IDS="$devices" "${submit[@]}"); fi

run "${submit[@]}" "$root/launch/slurm/train.sbatch" "$python" "--config=$config" "--workdir=$workdir" \
  "${train_args[@]}"
