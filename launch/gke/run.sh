#!/usr/bin/env bash
# Trains on TPU slices of a GKE cluster as one JobSet: render the manifest, apply, follow the logs until it ends,
# delete.
#
#   launch/gke/run.sh --name=N --cluster=C --zone=Z --project=P --type=tpu-v6e-slice --topology=4x4 --image=I \
#     --bucket=B --config=FILE[:PRESET] --workdir=/bucket/DIR [FLAGS] [-- --config.FIELD=VALUE ...]
#
#   --name      name of the JobSet
#   --cluster, --zone, --project   the cluster; its zone or region
#   --type      label cloud.google.com/gke-tpu-accelerator: tpu-v6e-slice, tpu-v5-lite-podslice, tpu-v5p-slice, ...
#   --topology  chips of a slice: 2x4, 4x4, 2x2x4, ...
#   --image     container image that holds alignjax, see README.md
#   --bucket    Cloud Storage bucket, mounted at /bucket
#   --config, --workdir   as in python -m alignjax.train, seen from the container
#   --chips     chips of a node; default 4
#   --slices    number of slices; default 1
#   --namespace, --service_account   default: default
#   --max_restarts   how often to resume after a preemption or a signal; default 20
#   --poll      seconds between two looks at the JobSet; default 30
#   --manifest  file to write; default NAME.jobset.yaml
#   --spot      nodes that may be taken away
#   --keep      do not delete the JobSet
#   --dry_run   write the manifest, print the commands and run none
#
# Exit status: that of training where it is known, 1 for a JobSet that failed otherwise; 2 also for a missing flag.

set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "$0")/../common.sh"

flags=(name cluster zone project type topology image bucket config workdir chips slices namespace service_account
  max_restarts poll manifest)
switches=(spot keep dry_run)
name='' cluster='' zone='' project='' type='' topology='' image='' bucket='' config='' workdir='' manifest=''
chips=4 slices=1 namespace=default service_account=default max_restarts=20 poll=30
spot='' keep='' dry_run=''
parse "$@"
require name cluster zone project type topology image bucket config workdir
require_name
require_number chips slices max_restarts poll
[[ $topology =~ ^[1-9][0-9]*(x[1-9][0-9]*)+$ ]] || fail "--topology is '$topology', must be like 4x4 or 2x2x4."
nodes=$((${topology//x/*} / chips))
((nodes * chips == ${topology//x/*})) || fail "--topology=$topology is not a multiple of --chips=$chips a node."
[[ $workdir == /bucket/* ]] || fail "--workdir is '$workdir', must be in /bucket: all else is lost with the pod."
manifest=${manifest:-$name.jobset.yaml}
selector=jobset.sigs.k8s.io/jobset-name=$name

json() {
  local text=$1 code character escape
  text=${text//\\/\\\\}
  text=${text//\"/\\\"}
  # The characters that JSON does not take as they are.
  for ((code = 1; code < 32; code++)); do
    printf -v character '\\x%02x' "$code"
    printf -v character '%b' "$character"
    printf -v escape '\\u%04x' "$code"
    text=${text//"$character"/"$escape"}
  done
  printf '"%s"' "$text"
}

json_list() {
  local item list=''
  for item in "$@"; do list+="$(json "$item"), "; done
  printf '[%s]' "${list%, }"
}

render() {
  local line key value node_selector
  node_selector="{\"cloud.google.com/gke-tpu-accelerator\": $(json "$type")"
  node_selector+=", \"cloud.google.com/gke-tpu-topology\": $(json "$topology")"
  node_selector+="${spot:+, \"cloud.google.com/gke-spot\": \"true\"}}"
  # Kubernetes replaces $(NAME) in arguments, and reads $$ as $.
  local args=("--config=$config" "--workdir=$workdir" "${train_args[@]}")
  local -A values=(
    [NAME]=$(json "$name") [SLICES]=$slices [NODES]=$nodes [CHIPS]=$chips [MAX_RESTARTS]=$max_restarts
    [IMAGE]=$(json "$image") [BUCKET]=$(json "$bucket") [SERVICE_ACCOUNT]=$(json "$service_account")
    [NODE_SELECTOR]=$node_selector [ARGS]=$(json_list "${args[@]//\$/\$\$}")
  )
  while IFS= read -r line; do
    if [[ $line =~ ^([^#]*)@([A-Z_]+)@$ ]]; then
      key=${BASH_REMATCH[2]}
      value=${values[$key]}
      line=${BASH_REMATCH[1]}$value
    fi
    printf '%s\n' "$line"
  done <"$(dirname "$0")/jobset.yaml"
}

kube=(kubectl --context="gke_${project}_${zone}_${cluster}" --namespace="$namespace")
# shellcheck disable=SC2329  # called when the script ends
release() { run "${kube[@]}" delete jobset "$name" --ignore-not-found; }

# Follows the logs anew after each restart; a restart ends them.
follow() {
  while true; do
    run "${kube[@]}" logs --follow --prefix --selector="$selector" --container=train --tail=-1 \
      --max-log-requests=$((nodes * slices)) || true # no pod is there yet, or it is going
    if run "${kube[@]}" wait "jobset/$name" --for='jsonpath={.status.terminalState}' --timeout="${poll}s"; then
      return
    fi
    run "${kube[@]}" get jobset "$name" --output=name # still there, or deleted by someone else
  done
}

render >"$manifest"
run gcloud container clusters get-credentials "$cluster" --location="$zone" --project="$project" --quiet
existing=''
ask existing '' "${kube[@]}" get jobset "$name" --ignore-not-found --output=name
if [[ $existing ]]; then fail "--name=$name exists in $cluster already; choose another or delete it."; fi
clean_up_at_exit
created="the JobSet $name"
run "${kube[@]}" apply --filename="$manifest"
follow
ended=''
ask ended Completed "${kube[@]}" get jobset "$name" --output='jsonpath={.status.terminalState}'
if [[ $ended == Completed ]]; then exit 0; fi

statuses=''
ask statuses '' "${kube[@]}" get pods --selector="$selector" \
  --output='jsonpath={.items[*].status.containerStatuses[?(@.name=="train")].state.terminated.exitCode}'
for status in 2 3; do # one pod that says why counts for more than the others, which were killed
  if [[ " $statuses " == *" $status "* ]]; then exit "$status"; fi
done
exit 1
