"""Hostile files by the thousand: `seeds` are small real files, `mutants` damages them, `trial` tries and counts them.

`scripts/fuzz` runs any number of them, `tests/media/test_fuzz.py` a few.
"""
