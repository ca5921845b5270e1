from __future__ import annotations

import os
import threading

import numpy as np
import pytest

from vllava_cli.media.decoder import splice

PIXELS = np.random.default_rng(0).integers(0, 255, (8, 480, 854, 3), dtype=np.uint8)


def read_all(pipe: int, size: int) -> bytes:
    with os.fdopen(pipe, "rb") as stream:
        return stream.read(size)


@pytest.mark.parametrize("taken", [None, 0, -1], ids=["as this system does", "without vmsplice", "forbidden"])
def test_all_pixels_pass_through_a_pipe(monkeypatch: pytest.MonkeyPatch, taken: int | None) -> None:
    if taken is not None:
        monkeypatch.setattr(splice, "_splice", lambda: lambda *_: taken)
    reader, writer = os.pipe()
    thread = threading.Thread(target=splice.give, args=(writer, PIXELS))
    thread.start()
    assert read_all(reader, PIXELS.nbytes) == PIXELS.tobytes()
    thread.join()
    os.close(writer)


def test_pixels_that_may_not_be_written_to_pass_too() -> None:
    pixels = PIXELS[:1, :9].copy()
    pixels.flags.writeable = False
    reader, writer = os.pipe()
    splice.give(writer, pixels)
    assert read_all(reader, pixels.nbytes) == pixels.tobytes()
    os.close(writer)


def test_a_reader_that_is_gone() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with pytest.raises(BrokenPipeError):
        splice.give(writer, PIXELS)
    os.close(writer)
