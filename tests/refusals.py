"""Calls that are refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest


def refused(kind: type[Exception], do: Callable[..., object], *words: object, **named: object) -> str:
    """The message of the error that `do(*words, **named)` raises."""
    with pytest.raises(kind) as caught:
        do(*words, **named)
    return str(caught.value)
