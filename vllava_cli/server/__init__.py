"""`vllava serve`: a model that stays loaded, and the protocols by which commands and other programs ask it."""
