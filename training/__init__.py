"""The recipe that made the demo checkpoint; it is not installed with vllava."""
