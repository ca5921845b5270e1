"""`vllava replay`: answers that rows tell of, made again."""
