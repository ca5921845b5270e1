"""Files that survive crashes: rows, journals, locks, replacement in one step, object stores, and checks of fields."""
