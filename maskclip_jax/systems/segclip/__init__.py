"""SegCLIP (Luo et al., ICML 2023): patches gathered by learnable centres."""
