#!/usr/bin/env bash
# Trains on every host of a Cloud TPU slice: copies the checkout, installs it, and starts
# the same command everywhere. The hosts find each other by themselves.
#   launch/tpu_pod.sh --tpu NAME --zone ZONE [--project P] [--dry_run] \
#     -- --config masqclip:stage=masq --workdir /shared/runs/masq ...
# The workdir and the data must lie where all hosts see them (Filestore, or a bucket
# mounted by gcsfuse). The command that was interrupted, given again, resumes the run.
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/commands.sh
parse_flags 'tpu zone' 'project' "$@"
need_train

here=(--zone "${flags[zone]}" --worker all)
[ -z "${flags[project]:-}" ] || here+=(--project "${flags[project]}")
install='cd maskclip_jax && [ -x .venv/bin/python ] || python3 -m venv .venv;
. .venv/bin/activate && pip install --quiet -r requirements.txt "jax[tpu]" -e .'
command="cd maskclip_jax && . .venv/bin/activate && python -m maskclip_jax train \
--distributed $(printf '%q ' "${train[@]}")"

archive=$(mktemp --suffix .tar.gz)
trap 'rm -f "$archive"' EXIT
run git archive --format tar.gz --prefix maskclip_jax/ --output "$archive" HEAD
run gcloud compute tpus tpu-vm scp "$archive" "${flags[tpu]}:maskclip_jax.tar.gz" \
  "${here[@]}"
run gcloud compute tpus tpu-vm ssh "${flags[tpu]}" "${here[@]}" \
  --command "tar -xzf maskclip_jax.tar.gz && $install"
run gcloud compute tpus tpu-vm ssh "${flags[tpu]}" "${here[@]}" --command "$command"
