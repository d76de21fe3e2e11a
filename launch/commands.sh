# Sourced by the scripts beside it: `run COMMAND...` runs a command, or only prints it
# after --dry_run. Flags of the script come before `--`, those of `train` after it.

dry_run=false
declare -A flags

# parse_flags "needed names" "optional names" "$@": fills `flags` and `train`.
parse_flags() {
  local needed=$1 optional=$2 name
  shift 2
  while [ $# -gt 0 ]; do
    case $1 in
      --dry_run) dry_run=true; shift ;;
      --) shift; break ;;
      --*)
        name=${1#--}
        if [[ " $needed $optional " != *" $name "* ]] || [ $# -lt 2 ]; then
          echo "$0: unknown or incomplete flag $1; there are: --dry_run" \
            "$(printf -- '--%s ' $needed $optional)-- TRAIN FLAGS" >&2
          exit 2
        fi
        flags[$name]=$2
        shift 2
        ;;
      *) echo "$0: unexpected '$1': put the flags of train after --" >&2; exit 2 ;;
    esac
  done
  for name in $needed; do
    if [ -z "${flags[$name]:-}" ]; then
      echo "$0: --$name is needed" >&2
      exit 2
    fi
  done
  train=("$@")
}

# need_train: fails where nothing stands after `--`.
need_train() {
  if [ ${#train[@]} -eq 0 ]; then
    echo "$0: say what to train after --, e.g. -- --config FILE:ARG --workdir DIR" >&2
    exit 2
  fi
}

run() {
  if $dry_run; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}
