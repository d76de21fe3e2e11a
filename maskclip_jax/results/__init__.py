"""Results: what was found in a photo, drawn, and written to files."""
