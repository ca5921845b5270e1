"""Clips that URLs name, as regular files of a bounded private cache."""
