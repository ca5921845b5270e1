"""What a mistyped name may have been meant as."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches


def nearest(name: str, names: Sequence[str]) -> str:
    """ "frmaes" → " Did you mean /frames?" with the names as they are given; "" where none is near.

    Names that begin with what was typed come before names that only look like it.
    """
    typed = name.lower()
    found = [each for each in names if typed and each.startswith(typed)] or get_close_matches(typed, names, n=1)
    *first, last = found or [""]
    if not last:
        return ""
    return f" Did you mean {', '.join(first)} or {last}?" if first else f" Did you mean {last}?"
