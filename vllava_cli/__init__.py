"""vllava: answers questions about videos at the command line. Imports nothing, so that it starts at once."""

__version__ = "0.1.0"
