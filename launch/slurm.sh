#!/usr/bin/env bash
# Trains as a Slurm job, one process per node; run it on a login node.
#   launch/slurm.sh --nodes 4 --gpus 8 [--partition P] [--time 24:00:00] [--account A] \
#     [--name N] [--dry_run] -- --config masqclip:stage=teacher --workdir ...
# Two minutes before its time is up, and when it is preempted, the job is told to stop:
# it saves, ends with status 143, and puts itself in the queue again to resume.
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/commands.sh
parse_flags 'nodes gpus' 'partition time account name' "$@"
need_train

options=(
  --nodes "${flags[nodes]}" --ntasks-per-node 1 --gpus-per-node "${flags[gpus]}"
  --exclusive --requeue --open-mode append --signal TERM@120
  --job-name "${flags[name]:-maskclip_jax}"
)
for name in partition time account; do
  [ -z "${flags[$name]:-}" ] || options+=("--$name" "${flags[$name]}")
done
command="srun --kill-on-bad-exit python -m maskclip_jax train --distributed \
$(printf '%q ' "${train[@]}")"
again='[ $status -ne 143 ] || scontrol requeue $SLURM_JOB_ID'
run sbatch "${options[@]}" --wrap "$command; status=\$?; $again; exit \$status"
