"""Files that outlive crashes: rows, journals, locks, replacements in one step, object stores, distrusted fields."""
