"""Records of a run: its log, events, pictures, and its directory."""
