"""The commands: each is a function of a request and a screen that returns the exit code."""
