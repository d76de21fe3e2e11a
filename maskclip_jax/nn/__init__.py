"""Layer 1: NNX building blocks shared by the four systems."""
