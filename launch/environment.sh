# Sourced by the scripts beside it: `prepare [EXTRAS]` makes a Python environment ready.
#
# Without an active virtual environment, .venv in the checkout is created and used, or
# .venv-python3.13 where PYTHON=python3.13 says so. What was installed is remembered there,
# so a second run starts at once.

prepare() {
  local extras=${1:-} python=${PYTHON:-python3} stamp
  local environment=.venv${PYTHON:+-${PYTHON##*/}}
  if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "Python 3.11 or newer is needed; $python is $("$python" --version 2>&1)." \
      "Set PYTHON to a newer one." >&2
    return 2
  fi
  if [ -z "${VIRTUAL_ENV:-}" ]; then
    [ -x "$environment/bin/python" ] || "$python" -m venv "$environment" || return 2
    . "$environment/bin/activate"
  fi
  stamp=$VIRTUAL_ENV/.maskclip_jax${extras:+-${extras//,/-}}
  if ! cat pyproject.toml requirements.txt | cmp -s - "$stamp"; then
    echo "Installing maskclip_jax${extras:+[$extras]} into $VIRTUAL_ENV ..."
    # Python compiles what is used when it is used, which is a small part of it.
    python -m pip install --quiet --disable-pip-version-check --no-compile \
      -r requirements.txt -e ".${extras:+[$extras]}" || return 2
    cat pyproject.toml requirements.txt >"$stamp"
  fi
}
