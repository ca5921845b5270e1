"""`vllava batch`: many questions about many clips, a row for each."""
