"""Pure array functions. No flax, no I/O."""
