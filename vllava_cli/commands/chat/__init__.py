"""`vllava chat`: a conversation at a terminal or over a pipe."""
