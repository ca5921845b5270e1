"""A folder of pictures as a clip."""

from __future__ import annotations

from pathlib import Path

from vllava_cli.errors import MediaError
from vllava_cli.nouns import Frames, Framing


def read_folder(path: Path, framing: Framing) -> Frames:
    raise MediaError(f"{path} is a folder.")
