"""The clips that requests bring: opened, decoded once, and kept while they are used."""
