"""The address behind --ray, which may be left out: then what follows is a question or a clip. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

from vllava_cli.cluster.request import LOCAL

FLAG = "--ray"
_ADDRESS = re.compile(r"ray://\S+|auto|local|(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+):[0-9]{1,5}")


def with_address(words: Sequence[str]) -> list[str]:
    """["batch", "--ray", "a.mp4"] → ["batch", "--ray=local", "a.mp4"]; an address stays where it is."""
    found: list[str] = []
    ended = list(words).index("--") if "--" in words else len(words)
    for place, word in enumerate(words):
        following = words[place + 1] if place + 1 < ended else ""
        is_bare = word == FLAG and place < ended and not _ADDRESS.fullmatch(following)
        found.append(f"{FLAG}={LOCAL}" if is_bare else word)
    return found
