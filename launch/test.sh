#!/usr/bin/env bash
# Installs what the tests need, checks the style, and runs the tests.
#   launch/test.sh                     the fast ones, in minutes
#   launch/test.sh --all               also the slow ones, models of published size, and
#                                      what needs PyTorch or ONNX or builds the
#                                      documentation
#   launch/test.sh tests/nn -k resnet  pytest's arguments, after --all where that is given
#   launch/test.sh -m slow tests/nn    one's own choice, in a single run of pytest
#   PYTHON=python3.13 launch/test.sh   another Python, in an environment of its own
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/environment.sh

extras=dev fast=' and not slow'
if [ "${1:-}" = --all ]; then
  extras=dev,docs,torch,onnx,siglip fast=
  shift
fi
arguments=("$@")
prepare "$extras"

ruff check .
ruff format --check .
if [[ " $* " == *' -m '* ]]; then
  exec python -m pytest "$@"
fi

# part MARKERS FLAGS...: a run of pytest. Of 0 (passed), 5 (none was selected) and
# failures, the worst of all parts becomes the status.
status=5
part() {
  local code=0
  python -m pytest -m "$1" "${@:2}" "${arguments[@]}" || code=$?
  case $code in
    0) [ $status -ne 5 ] || status=0 ;;
    5) ;;
    *) status=$code ;;
  esac
}

# Small programs that run a few times each: most of the time is XLA's compilation. Without
# LLVM's optimisation and the fusion emitters it takes half, and rounding hardly differs.
# Newer versions know no other emitters, and a flag that XLA lacks ends a process.
quick=--xla_backend_optimization_level=0
emitters=--xla_cpu_use_fusion_emitters=false
if XLA_FLAGS=$emitters python -c 'import jax; jax.devices()' >/dev/null 2>&1; then
  quick+=" $emitters"
fi
# What XLA_FLAGS holds already comes last and wins.
given=${XLA_FLAGS:-}
export XLA_FLAGS="$quick $given"

# A process takes file after file, in the order of tests/conftest.py.
workers=(-n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder)
part "not eight_devices and not full_size$fast" "${workers[@]}"
XLA_FLAGS="$XLA_FLAGS --xla_force_host_platform_device_count=8" \
  part "eight_devices$fast" "${workers[@]}"
# Models of published size take up to 6 GB each, and are compiled as users compile them.
[ -n "$fast" ] || XLA_FLAGS=$given part full_size -n 2 --dist worksteal
exit $status
