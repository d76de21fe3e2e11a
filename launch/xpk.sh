#!/usr/bin/env bash
# Trains on a TPU slice of a Kubernetes cluster that xpk made.
#   launch/xpk.sh --cluster C --tpu_type v5litepod-256 --image IMAGE --name masq \
#     [--zone Z] [--project P] [--slices N] [--dry_run] \
#     -- --config masqclip:stage=masq --workdir /shared/runs/masq ...
# Make the image by launch/image.sh. A worker that is told to stop saves and ends with
# status 143; xpk then starts the workload again and it resumes.
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/commands.sh
parse_flags 'cluster tpu_type image name' 'zone project slices' "$@"
need_train

where=(--cluster "${flags[cluster]}")
[ -z "${flags[zone]:-}" ] || where+=(--zone "${flags[zone]}")
[ -z "${flags[project]:-}" ] || where+=(--project "${flags[project]}")
run xpk workload create "${where[@]}" \
  --workload "${flags[name]}" \
  --tpu-type "${flags[tpu_type]}" \
  --num-slices "${flags[slices]:-1}" \
  --docker-image "${flags[image]}" \
  --max-restarts 100 \
  --command "python -m maskclip_jax train --distributed $(printf '%q ' "${train[@]}")"
