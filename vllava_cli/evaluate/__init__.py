"""Scores the rows of a batch, writes them for other scorers, and shows them on a page; no model takes part."""
