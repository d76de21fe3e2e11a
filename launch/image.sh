#!/usr/bin/env bash
# Builds the container image of this checkout, and pushes it if told so.
#   launch/image.sh --tag REGISTRY/maskclip_jax:1 [--accelerator tpu|cuda13] [--push yes]
#     [--dockerfile serve.Dockerfile] [--dry_run]
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/commands.sh
parse_flags 'tag' 'accelerator push dockerfile' "$@"

run docker build --file "launch/${flags[dockerfile]:-Dockerfile}" \
  --tag "${flags[tag]}" \
  --build-arg "ACCELERATOR=${flags[accelerator]:-tpu}" .
[ -z "${flags[push]:-}" ] || run docker push "${flags[tag]}"
