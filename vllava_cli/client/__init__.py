"""Commands reach a running server by this package; nothing heavy is imported here, so that asking starts at once."""
