"""Layer 2: the systems. Each is `model(images, text) -> Outputs`."""
