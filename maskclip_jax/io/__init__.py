"""Layer 2: parameters in and out. Flat names, official checkpoints, bundles."""
