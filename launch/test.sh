#!/usr/bin/env bash
# Installs what the tests need, checks the style, and runs every test.
#   launch/test.sh                 everything
#   launch/test.sh -m 'not full_size' tests/nn     any pytest arguments
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/environment.sh
prepare dev,torch

ruff check .
ruff format --check .
exec python -m pytest "$@"
