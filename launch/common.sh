# shellcheck shell=bash
# shellcheck disable=SC2154  # flags, switches and what they name are variables of the script that sources this
# Functions shared by the launch scripts; sourced, never run. Needs bash 4.4 or newer.
#
# A script declares `flags` (names that take a value), `switches` (names that take none) and a default for each in a
# variable of the same name, then calls `parse "$@"`. What follows `--` is left in `train_args`.
# It also defines `release`, which deletes what was created; `created` says that there is something to delete.

# shellcheck disable=SC2034  # for the scripts
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
train_args=()
created='' # what a failure or an interruption has to delete
child=''   # the command under way

note() { printf '%s\n' "$*" >&2; }

# One line on standard error and status 2, as the Python commands do for bad input.
fail() {
  note "$(basename "$(dirname "$0")")/$(basename "$0"): ${*//$'\n'/ }"
  exit 2
}

((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] >= 404)) || fail "bash is $BASH_VERSION, must be 4.4 or newer."

# The comment at the head of a script is its help.
usage() { sed -n '2,/^$/s/^# \{0,1\}//p' "$0"; }

contains() {
  local wanted=$1 item
  shift
  for item in "$@"; do
    if [[ $item == "$wanted" ]]; then return 0; fi
  done
  return 1
}

parse() {
  local flag
  while (($#)); do
    flag=${1#--}
    flag=${flag%%=*}
    case $1 in
      --)
        shift
        train_args=("$@")
        return
        ;;
      --help | -h)
        usage
        exit 0
        ;;
      --*=*)
        if contains "$flag" "${switches[@]}"; then fail "--$flag takes no value."; fi
        contains "$flag" "${flags[@]}" || fail "unknown flag --$flag; see --help."
        printf -v "$flag" %s "${1#*=}"
        ;;
      --*)
        if contains "$flag" "${flags[@]}"; then fail "--$flag has no value; give --$flag=..."; fi
        contains "$flag" "${switches[@]}" || fail "unknown flag --$flag; see --help."
        printf -v "$flag" yes
        ;;
      *) fail "unexpected argument '$1'; options are written --name=value, and what is for training follows --." ;;
    esac
    shift
  done
}

require() {
  local flag missing=()
  for flag in "$@"; do
    if [[ -z ${!flag} ]]; then missing+=("--$flag=..."); fi
  done
  ((${#missing[@]} == 0)) || fail "missing: ${missing[*]}; see --help."
}

require_number() {
  local flag
  for flag in "$@"; do
    [[ ${!flag} =~ ^[0-9]+$ ]] || fail "--$flag is '${!flag}', must be a whole number."
  done
}

# Every platform here accepts these names, and none of them needs quoting.
require_name() {
  [[ $name =~ ^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$ ]] ||
    fail "--name is '$name'; give at most 40 lower-case letters, digits and '-', a letter first."
}

# Words as one line that can be pasted into bash.
quote() {
  local line
  printf -v line '%q ' "$@"
  printf '%s\n' "${line% }"
}

# Words as one string for another machine's shell: single quotes mean the same in every POSIX shell, also around a
# newline, where %q would write what only bash reads.
remote() {
  local word line=''
  for word in "$@"; do line+="'${word//\'/\'\\\'\'}' "; done
  printf %s "${line% }"
}

# The command is waited for in the background, since bash runs no trap before a command in the foreground has ended;
# a training may last days.
run() {
  local status=0
  if [[ $dry_run ]]; then
    quote "$@"
    return
  fi
  note "+ $(quote "$@")"
  "$@" &
  child=$!
  wait "$child" || status=$?
  child=''
  return "$status"
}

# ask VARIABLE ASSUMED COMMAND...: keeps the command's output; a dry run takes ASSUMED for it.
ask() {
  local into=$1 answer=$2
  shift 2
  if [[ $dry_run ]]; then
    quote "$@"
  else
    answer=$("$@") || return
  fi
  printf -v "$into" %s "$answer"
}

pause() {
  if [[ $dry_run ]]; then return; fi
  sleep "$1" &
  child=$!
  wait "$child"
  child=''
}

# From here on whatever ends the script also deletes what was created.
clean_up_at_exit() {
  trap finish EXIT
  trap 'exit 129' HUP
  trap 'exit 130' INT
  trap 'exit 143' TERM
}

finish() {
  local status=$? released=0
  trap - EXIT
  trap '' HUP INT TERM # a second Ctrl-C must not leave a machine behind that costs money
  set +e
  if [[ $child ]]; then
    kill -TERM "$child" 2>/dev/null
    wait "$child" 2>/dev/null
  fi
  if [[ $created && $keep ]]; then
    note "$created is kept; delete it with: $(dry_run=yes release)"
  elif [[ $created ]]; then
    release || released=$?
    if ((released)); then note "$created may still be there; delete it with: $(dry_run=yes release)"; fi
  fi
  if ((status == 0)); then status=$released; fi
  exit "$status"
}
