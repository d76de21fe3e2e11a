"""Layer 0: pure array functions. No flax, no I/O."""
