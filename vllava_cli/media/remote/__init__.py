"""Clips that URLs name, each fetched into a private temporary file."""
