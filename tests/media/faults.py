"""The sentence about a file that can't be read, and those that several test modules expect of `x.mp4`."""

from __future__ import annotations

from pathlib import Path

import pytest

from vllava_cli.errors import MediaError
from vllava_cli.media.sample import sample
from vllava_cli.nouns import Framing

NEITHER = "'x.mp4' is neither a video nor an image that can be read. Check the file or convert it to mp4."
TEXT = "'x.mp4' is text, not a video or an image. Check the path."
LIST = ", which names other files or addresses. Name those files, or save the video as one mp4."


def message_for(path: Path) -> str:
    with pytest.raises(MediaError) as error:
        sample(path, Framing())
    return str(error.value)
