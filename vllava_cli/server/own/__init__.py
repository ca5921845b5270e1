"""The routes for this user's own commands, under /vllava."""
