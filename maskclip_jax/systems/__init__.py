"""The systems, one folder each: `model(images, text) -> Outputs`."""
