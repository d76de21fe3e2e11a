"""Tables of official checkpoint layouts, one file per network."""
