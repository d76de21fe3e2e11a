"""The commands of `python -m maskclip_jax`, a module each: `NAME`, `HELP`, `add_flags`
and `run`.

Flags, environment variables and the choice of cache directories live here and nowhere
below. Modules import what they run inside `run`: `--help` loads no jax.
"""
