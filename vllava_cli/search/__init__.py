"""`vllava find`: the stretches of footage in which something is shown, in grep's manners."""
