"""The same batch on Ray: a manifest of clips, processes that decode and answer anywhere, rows that come back here."""
