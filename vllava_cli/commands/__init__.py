"""The commands. Each is a function that takes a request and a screen, and returns the exit code."""
