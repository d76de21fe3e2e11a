"""Layer 1: datasets and input pipelines on grain and TFDS; numpy only, no jax."""
