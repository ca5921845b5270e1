"""A fetched clip is a private temporary file that goes away, no larger than a clip may be."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.media.remote.site import Site, content
from vllava_cli.errors import FetchError
from vllava_cli.media.fingerprint import Fingerprint
from vllava_cli.media.remote.fetch import Fetcher

pytest.importorskip("aiohttp")

Make = Callable[..., Fetcher]


def refusal(fetcher: Fetcher, url: str) -> str:
    with pytest.raises(FetchError) as caught, fetcher.fetched(url):
        pass
    return str(caught.value)


def test_a_clip_is_a_private_file_that_is_gone_once_it_was_read(site: Site, fetcher: Make, folder: Path) -> None:
    for body in (b"old", b"new"):
        site.answers["/a.mp4"] = content(body)
        with fetcher().fetched(site.url("/a.mp4")) as clip:
            assert clip.path.read_bytes() == body
            assert clip.fingerprint == Fingerprint(bytes=3, sha256=hashlib.sha256(body).hexdigest())
            assert stat.S_IMODE(clip.path.stat().st_mode) == 0o600
        assert list(folder.iterdir()) == []
    assert site.requests["GET /a.mp4"] == 2


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError])
def test_nothing_is_left_behind(site: Site, fetcher: Make, folder: Path, error: type[BaseException]) -> None:
    site.answers["/a.mp4"] = content(b"x")
    with pytest.raises(error), fetcher().fetched(site.url("/a.mp4")):
        raise error
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("promised", [None, -1], ids=["told", "not told"])
def test_a_clip_larger_than_the_bound_is_refused(
    site: Site, fetcher: Make, folder: Path, promised: int | None, waits: list[float]
) -> None:
    site.answers["/a.mp4"] = content(b"x" * 2_000_001, promised=promised)
    error = refusal(fetcher(most_bytes=2_000_000), site.url("/a.mp4?sig=secret"))
    size = "it has 2.0 MB or more, more than the 2.0 MB that a clip may have. Save it to a file, and name that."
    assert error == f"{site.url('/a.mp4')} can't be fetched: {size}"
    assert (waits, list(folder.iterdir())) == ([], [])


FULL = "'{}' can't keep clips: no space left on device. Free some disk space, or set TMPDIR to another one."


def test_a_disk_with_too_little_room_is_not_filled_but_asked_again(
    site: Site, fetcher: Make, folder: Path, monkeypatch: pytest.MonkeyPatch, waits: list[float]
) -> None:
    free = [5, 5, 6]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free.pop(0)))
    site.answers["/a.mp4"] = content(b"sixsix")
    with fetcher().fetched(site.url("/a.mp4")) as clip:
        assert clip.path.read_bytes() == b"sixsix"
    assert waits == [1, 3]
    free += [5] * 4
    assert refusal(fetcher(), site.url("/a.mp4")) == FULL.format(folder)
    assert list(folder.iterdir()) == []


def test_a_disk_that_fills_meanwhile_is_told(
    site: Site, fetcher: Make, folder: Path, monkeypatch: pytest.MonkeyPatch, waits: list[float]
) -> None:
    class Full(io.FileIO):
        def write(self, _: object) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    site.answers["/a.mp4"] = content(b"x" * 2_000_000, promised=-1)
    monkeypatch.setattr(os, "fdopen", lambda descriptor, mode, **_: Full(descriptor, mode))
    assert refusal(fetcher(), site.url("/a.mp4")) == FULL.format(folder)
    assert (waits, list(folder.iterdir())) == ([1, 3, 9], [])


def test_a_folder_that_is_gone_is_told(fetcher: Make, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(folder / "gone"))
    assert refusal(fetcher(), "http://127.0.0.1/a.mp4") == (
        f"'{folder}/gone' can't keep clips: no such file or directory. Check the folder, or set TMPDIR to another one."
    )
