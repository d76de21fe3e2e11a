"""Models outside this package: exported artefacts, and a server."""
