"""NNX building blocks shared by the systems."""
