"""A cache that is bounded, private and verified, shared by processes that may be killed at any moment."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import stat
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from tests.media.remote.site import Site, content, for_get, status
from vllava_cli.errors import FetchError
from vllava_cli.media.remote import download
from vllava_cli.media.remote.cache import Cache
from vllava_cli.media.remote.fetch import Fetcher
from vllava_cli.media.remote.folder import default_folder
from vllava_cli.media.remote.locks import sole
from vllava_cli.media.remote.policy import allowed
from vllava_cli.media.remote.room import Room
from vllava_cli.media.remote.urls import key_of
from vllava_cli.storage.files import release

pytest.importorskip("aiohttp")

Make = Callable[..., Fetcher]
MEGABYTE = 1_000_000
_SPAWN = multiprocessing.get_context("spawn")


def fetched(fetcher: Fetcher, url: str) -> bytes:
    with fetcher.fetched(url) as path:
        return path.read_bytes()


def refusal(fetcher: Fetcher, url: str) -> str:
    with pytest.raises(FetchError) as caught, fetcher.fetched(url):
        pass
    return str(caught.value)


def clips(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.suffix == ".mp4"]


def downloads(site: Site) -> int:
    return sum(count for request, count in site.requests.items() if request.startswith("GET"))


def test_a_clip_is_fetched_once_and_asked_for_each_time(site: Site, fetcher: Make, folder: Path) -> None:
    site.answers["/a.mp4"] = content(b"x", ETag='"1"', Last_Modified="Mon, 23 Nov 2026 06:00:00 GMT")
    url = site.url("/a.mp4?sig=secret", login="me:word@")
    assert [fetched(fetcher(), url) for _ in range(3)] == [b"x"] * 3
    assert site.requests == {"HEAD /a.mp4?sig=secret": 3, "GET /a.mp4?sig=secret": 1}
    key = key_of(url)
    digest = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
    assert sorted(path.name for path in folder.iterdir()) == [".lock", f"{key}-{digest[:16]}.mp4", f"{key}.json"]
    assert json.loads((folder / f"{key}.json").read_text()) == {
        "url": site.url("/a.mp4"),
        "bytes": 1,
        "sha256": digest,
        "remote": {"bytes": 1, "mark": '"1"', "modified": "Mon, 23 Nov 2026 06:00:00 GMT"},
    }


@pytest.mark.parametrize("promised", [None, -1], ids=["a length", "nothing"])
def test_a_clip_of_which_a_server_says_no_version_is_fetched_each_time(
    site: Site, fetcher: Make, promised: int | None
) -> None:
    for body in (b"old", b"new", b"new"):
        site.answers["/a.mp4"] = content(body, promised=promised, ETag="")
        assert fetched(fetcher(), site.url("/a.mp4")) == body
    assert downloads(site) >= 3


def test_nobody_else_may_read_it(site: Site, fetcher: Make, folder: Path) -> None:
    site.answers["/a.mp4"] = content(b"x")
    before = os.umask(0)
    try:
        fetched(fetcher(), site.url("/a.mp4"))
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


def test_a_folder_that_others_may_read_is_made_private(site: Site, fetcher: Make, folder: Path) -> None:
    site.answers["/a.mp4"] = content(b"x")
    folder.mkdir()
    folder.chmod(0o755)
    fetched(fetcher(), site.url("/a.mp4"))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o770, 0o702])
def test_a_folder_that_others_may_write_to_is_refused(site: Site, fetcher: Make, folder: Path, mode: int) -> None:
    folder.mkdir()
    folder.chmod(mode)
    assert refusal(fetcher(), site.url("/a.mp4")) == (
        f"'{folder}' can't keep clips: others may write to it. "
        "Run chmod 700, or set VLLAVA_CACHE to a folder of your own."
    )
    assert not site.requests


def test_a_folder_of_another_user_is_refused(
    site: Site, fetcher: Make, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.mkdir(mode=0o700)
    user = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: user + 1)
    assert "it belongs to another user. Set VLLAVA_CACHE" in refusal(fetcher(), site.url("/a.mp4"))


def test_a_folder_that_can_not_be_made_is_told(site: Site, fetcher: Make, folder: Path) -> None:
    folder.touch()
    assert refusal(fetcher(), site.url("/a.mp4")).startswith(f"'{folder}' can't keep clips: file exists.")


def test_a_new_version_is_fetched_and_the_old_one_stays_for_its_holder(site: Site, fetcher: Make) -> None:
    url = site.url("/a.mp4")
    site.answers["/a.mp4"] = content(b"old", ETag="1")
    with fetcher().fetched(url) as old:
        site.answers["/a.mp4"] = content(b"new", ETag="2")
        with fetcher().fetched(url) as new:
            assert (old.read_bytes(), new.read_bytes()) == (b"old", b"new")
    assert fetched(fetcher(), url) == b"new"
    assert downloads(site) == 2


@pytest.mark.parametrize("changed", [{"ETag": "2"}, {"Last_Modified": "later"}])
def test_a_mark_or_a_date_that_changed_is_enough(site: Site, fetcher: Make, changed: dict[str, str]) -> None:
    told = {"ETag": "1", "Last_Modified": "now"}
    for headers in (told, told | changed):
        site.answers["/a.mp4"] = content(b"x", **headers)
        assert fetched(fetcher(), site.url("/a.mp4")) == b"x"
    assert downloads(site) == 2


def test_what_is_gone_from_its_server_is_missing_though_it_is_kept(site: Site, fetcher: Make) -> None:
    site.answers["/a.mp4"] = content(b"x")
    fetched(fetcher(), site.url("/a.mp4"))
    site.answers["/a.mp4"] = status(404)
    assert "doesn't exist" in refusal(fetcher(), site.url("/a.mp4"))


@pytest.mark.parametrize("wrong", [b"y", b"", b"xx"])
def test_a_file_that_was_tampered_with_is_fetched_again(site: Site, fetcher: Make, folder: Path, wrong: bytes) -> None:
    site.answers["/a.mp4"] = content(b"x")
    fetched(fetcher(), site.url("/a.mp4"))
    (path,) = clips(folder)
    path.write_bytes(wrong)
    assert fetched(fetcher(), site.url("/a.mp4")) == b"x"
    assert downloads(site) == 2


def test_a_link_in_the_place_of_a_file_is_not_followed(site: Site, fetcher: Make, folder: Path, tmp_path: Path) -> None:
    site.answers["/a.mp4"] = content(b"x")
    fetched(fetcher(), site.url("/a.mp4"))
    (path,) = clips(folder)
    (tmp_path / "x").write_bytes(b"x")
    path.unlink()
    path.symlink_to(tmp_path / "x")
    assert "can't keep clips: too many levels of symbolic links" in refusal(fetcher(), site.url("/a.mp4"))


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: b"",
        lambda _: b"[]",
        lambda _: b"[" * 100_000,
        lambda _: b"\xff",
        lambda row: json.dumps(row | {"sha256": "../../../../../etc/passwd"}).encode(),
        lambda row: json.dumps(row | {"bytes": "1"}).encode(),
        lambda row: json.dumps(row | {"remote": None}).encode(),
        lambda _: json.dumps({"bytes": 1}).encode(),
    ],
)
def test_a_damaged_sidecar_only_costs_a_download(
    site: Site, fetcher: Make, folder: Path, damage: Callable[[dict[str, object]], bytes]
) -> None:
    site.answers["/a.mp4"] = content(b"x")
    fetched(fetcher(), site.url("/a.mp4"))
    (path,) = folder.glob("*.json")
    path.write_bytes(damage(json.loads(path.read_text())))
    assert [fetched(fetcher(), site.url("/a.mp4")) for _ in range(2)] == [b"x"] * 2
    assert downloads(site) == 2


def test_what_lies_there_never_grows_beyond_the_bound(site: Site, fetcher: Make, folder: Path) -> None:
    for number in range(10):
        site.answers[f"/{number}.mp4"] = content(bytes([number]) * MEGABYTE)
        fetched(fetcher(most_bytes=3 * MEGABYTE), site.url(f"/{number}.mp4"))
        assert sum(path.stat().st_size for path in clips(folder)) == min(number + 1, 3) * MEGABYTE
    assert sorted(path.read_bytes()[0] for path in clips(folder)) == [7, 8, 9]
    assert len(list(folder.glob("*.json"))) == 3


def test_the_clip_that_was_used_longest_ago_goes_first(site: Site, fetcher: Make, folder: Path) -> None:
    for number in (0, 1, 2, 0, 3):
        site.answers[f"/{number}.mp4"] = content(bytes([number]) * 10)
        fetched(fetcher(most_bytes=30), site.url(f"/{number}.mp4"))
    assert sorted(path.read_bytes()[0] for path in clips(folder)) == [0, 2, 3]


def test_using_a_clip_leaves_its_date(site: Site, fetcher: Make, folder: Path) -> None:
    site.answers["/a.mp4"] = content(b"x")
    fetched(fetcher(), site.url("/a.mp4"))
    (path,) = clips(folder)
    os.utime(path, ns=(1, 1))
    fetched(fetcher(), site.url("/a.mp4"))
    assert (path.stat().st_mtime_ns, path.stat().st_atime_ns > 1) == (1, True)


def test_clips_that_are_held_stay(site: Site, fetcher: Make, folder: Path) -> None:
    make = fetcher(most_bytes=3 * MEGABYTE)
    for number in range(10):
        site.answers[f"/{number}.mp4"] = content(bytes([number]) * MEGABYTE)
    with make.fetched(site.url("/0.mp4")) as first, make.fetched(site.url("/1.mp4")) as second:
        for number in range(2, 10):
            fetched(make, site.url(f"/{number}.mp4"))
        assert [first.read_bytes()[0], second.read_bytes()[0]] == [0, 1]
        assert len(clips(folder)) == 3


def test_a_clip_that_two_hold_stays_until_both_let_go(site: Site, fetcher: Make) -> None:
    make = fetcher(most_bytes=10)
    site.answers |= {"/a.mp4": content(b"a" * 10), "/b.mp4": content(b"b" * 10)}
    with make.fetched(site.url("/a.mp4")) as path:
        fetched(make, site.url("/a.mp4"))
        assert "too little room" in refusal(make, site.url("/b.mp4"))
        assert path.read_bytes() == b"a" * 10
    assert fetched(make, site.url("/b.mp4")) == b"b" * 10


def test_no_room_beside_held_clips_is_told(site: Site, fetcher: Make, folder: Path, waits: list[float]) -> None:
    make = fetcher(most_bytes=3 * MEGABYTE)
    for number in range(4):
        site.answers[f"/{number}.mp4"] = content(bytes([number]) * MEGABYTE)
    with ExitStack() as held:
        for number in range(3):
            held.enter_context(make.fetched(site.url(f"/{number}.mp4")))
        where = f"'{folder}' has 1.0 MB too little room beside the clips in use"
        assert refusal(make, site.url("/3.mp4")) == (
            f"{site.url('/3.mp4')} can't be fetched: {where}. "
            "Free some of the disk, let the cache hold more, or work on fewer clips at a time."
        )
    assert waits == []
    assert fetched(make, site.url("/3.mp4"))[0] == 3


def test_a_download_waits_for_room_that_is_given_back(
    site: Site, fetcher: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = fetcher(most_bytes=10, queue_s=60)
    site.answers |= {"/a.mp4": content(b"a" * 10), "/b.mp4": content(b"b" * 10)}
    held = ExitStack()
    held.enter_context(make.fetched(site.url("/a.mp4")))
    monkeypatch.setattr(download.time, "sleep", lambda _: held.close())
    assert fetched(make, site.url("/b.mp4")) == b"b" * 10


def test_nobody_waits_for_a_disk_that_no_clip_has_filled(
    site: Site, fetcher: Make, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download.time, "sleep", pytest.fail)
    site.answers |= {"/a.mp4": content(b"a"), "/b.mp4": content(b"b" * 10)}
    full = Cache(folder, 1000, patience_s=0, queue_s=60, free_bytes=lambda _: 5)
    make = replace(fetcher(), cache=full)
    with make.fetched(site.url("/a.mp4")):
        assert "has 0.0 MB too little room beside the clips in use" in refusal(make, site.url("/b.mp4"))


def test_a_download_that_has_begun_does_not_queue_for_more(
    site: Site, fetcher: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download.time, "sleep", pytest.fail)
    monkeypatch.setattr(download, "STEP_BYTES", 1)
    make = fetcher(most_bytes=3 * MEGABYTE, queue_s=60)
    site.answers |= {"/a.mp4": content(b"a" * MEGABYTE), "/b.mp4": content(b"b" * 3 * MEGABYTE, promised=-1)}
    with make.fetched(site.url("/a.mp4")):
        assert "too little room beside the clips in use" in refusal(make, site.url("/b.mp4"))


@pytest.mark.parametrize("promised", [None, -1])
def test_a_file_larger_than_the_bound_is_refused(
    site: Site, fetcher: Make, folder: Path, promised: int | None, waits: list[float]
) -> None:
    site.answers["/small.mp4"] = content(b"x")
    site.answers["/a.mp4"] = content(b"x" * 2_000_001, promised=promised)
    make = fetcher(most_bytes=2_000_000)
    fetched(make, site.url("/small.mp4"))
    error = refusal(make, site.url("/a.mp4?sig=secret"))
    assert error.startswith(f"{site.url('/a.mp4')} can't be fetched: it has 2.0 MB or more, more than the 2.0 MB that")
    assert (waits, list(folder.glob("*.part"))) == ([], [])
    if promised is None:
        assert (downloads(site), len(clips(folder))) == (1, 1)


def test_a_size_that_is_not_told_gets_its_room_in_steps(
    site: Site, fetcher: Make, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "STEP_BYTES", 1)
    make = fetcher(most_bytes=4 * MEGABYTE)
    for number, answer in enumerate((content(b"a" * MEGABYTE), content(b"b" * 3 * MEGABYTE, promised=-1))):
        site.answers[f"/{number}.mp4"] = answer
        fetched(make, site.url(f"/{number}.mp4"))
    assert sorted(path.stat().st_size for path in clips(folder)) == [MEGABYTE, 3 * MEGABYTE]
    site.answers["/2.mp4"] = content(b"c" * (3 * MEGABYTE + 1), promised=-1)
    fetched(make, site.url("/2.mp4"))
    assert [path.stat().st_size for path in clips(folder)] == [3 * MEGABYTE + 1]


def test_a_download_takes_its_room_before_its_first_byte(site: Site, fetcher: Make, folder: Path) -> None:
    sizes: list[int] = []

    def look(handler: BaseHTTPRequestHandler) -> None:
        sizes.extend(path.stat().st_size for path in folder.glob("*.part"))
        content(b"x" * 10)(handler)

    site.answers["/a.mp4"] = for_get(get=look, head=content(b"x" * 10))
    fetched(fetcher(), site.url("/a.mp4"))
    assert sizes == [10]


def test_room_that_another_download_has_asked_for_is_not_given_twice(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    part, other = (folder / f"{key_of(url)}.part" for url in ("s3://a", "s3://b"))
    descriptor = sole(other)
    os.ftruncate(descriptor, 7)
    room = Room(folder=folder, most_bytes=10, free_bytes=lambda _: 100)
    assert [room.lacking(part, wanted) for wanted in (3, 4)] == [0, 1]
    release(descriptor)
    assert [room.lacking(part, 10), other.exists()] == [0, False]


def test_the_disk_is_not_promised_twice(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    part, other = (folder / f"{key_of(url)}.part" for url in ("s3://a", "s3://b"))
    descriptor = sole(other)
    os.ftruncate(descriptor, 60)
    room = Room(folder=folder, most_bytes=1000, free_bytes=lambda _: 100)
    assert [room.lacking(part, wanted) for wanted in (40, 41)] == [0, 1]
    os.pwrite(descriptor, bytes(60), 0)
    os.fsync(descriptor)
    assert room.lacking(part, 41) < 0
    release(descriptor)


def test_a_disk_with_less_room_than_the_bound_bounds_the_cache(site: Site, fetcher: Make, folder: Path) -> None:
    disk_bytes = 25
    cache = Cache(
        folder, 1000, patience_s=0, free_bytes=lambda _: disk_bytes - sum(p.stat().st_size for p in clips(folder))
    )
    make = replace(fetcher(), cache=cache)
    for number in range(4):
        site.answers[f"/{number}.mp4"] = content(bytes([number]) * 10)
        fetched(make, site.url(f"/{number}.mp4"))
    assert sorted(path.read_bytes()[0] for path in clips(folder)) == [2, 3]


def test_a_disk_that_is_full_is_told(
    site: Site, fetcher: Make, folder: Path, monkeypatch: pytest.MonkeyPatch, waits: list[float]
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    site.answers["/a.mp4"] = content(b"x")
    monkeypatch.setattr(download, "write_all", full)
    assert refusal(fetcher(), site.url("/a.mp4")) == (
        f"'{folder}' can't keep clips: no space left on device. "
        "Free some room, or set VLLAVA_CACHE to a folder of your own."
    )
    assert (waits, list(folder.glob("*.part"))) == ([], [])


def test_leftovers_of_the_killed_are_cleaned_up_and_strangers_stay(site: Site, fetcher: Make, folder: Path) -> None:
    site.answers["/a.mp4"] = content(b"x")
    folder.mkdir(mode=0o700)
    key = key_of("s3://gone")
    for name in (f"{key}.part", f"{key}.json", f"{key}.json.new", f"{key_of(site.url('/a.mp4'))}.part"):
        (folder / name).write_bytes(b"left")
    (folder / "notes.part").write_bytes(b"mine")
    assert fetched(fetcher(), site.url("/a.mp4")) == b"x"
    left = {path.name for path in folder.iterdir() if path.name.startswith(key) or path.suffix == ".part"}
    assert left == {"notes.part"}


def _fetch(fetcher: Fetcher, url: str, gate: threading.Event, answers: multiprocessing.Queue[bytes]) -> None:
    gate.wait()
    answers.put(fetched(fetcher, url))


def test_processes_that_want_the_same_url_download_it_once(site: Site, folder: Path) -> None:
    asked = threading.Barrier(2)

    def head(handler: BaseHTTPRequestHandler) -> None:
        asked.wait(60)  # neither begins before the other has looked for it
        content(b"x" * 1000)(handler)

    site.answers["/a.mp4"] = for_get(get=content(b"x" * 1000), head=head)
    gate, answers = _SPAWN.Event(), _SPAWN.Queue()
    make = Fetcher(allowed(["http,loopback"]), Cache(folder, MEGABYTE))
    words = (make, site.url("/a.mp4"), gate, answers)
    processes = [_SPAWN.Process(target=_fetch, args=words) for _ in range(2)]
    for process in processes:
        process.start()
    gate.set()
    assert [answers.get(timeout=60) for _ in processes] == [b"x" * 1000] * 2
    for process in processes:
        process.join(60)
    assert downloads(site) == 1
    assert list(folder.glob("*.part")) == []


def _hold(cache: Cache, url: str, is_held: threading.Event) -> None:
    with Fetcher(allowed(["http,loopback"]), cache).fetched(url):
        is_held.set()
        threading.Event().wait()


def test_what_another_process_holds_stays_until_it_is_killed(site: Site, fetcher: Make, folder: Path) -> None:
    site.answers |= {"/a.mp4": content(b"a" * 10), "/b.mp4": content(b"b" * 10)}
    make, is_held = fetcher(most_bytes=10), _SPAWN.Event()
    process = _SPAWN.Process(target=_hold, args=(Cache(folder, 10), site.url("/a.mp4"), is_held), daemon=True)
    process.start()
    assert is_held.wait(60)
    assert "too little room" in refusal(make, site.url("/b.mp4"))
    process.kill()
    process.join(60)
    assert fetched(make, site.url("/b.mp4")) == b"b" * 10


def test_a_download_that_was_killed_is_done_anew(site: Site, fetcher: Make, folder: Path) -> None:
    begun = threading.Event()

    def stall(handler: BaseHTTPRequestHandler) -> None:
        content(b"ab", promised=10)(handler)
        begun.set()
        site.over.wait()

    site.answers["/a.mp4"] = for_get(get=stall, head=content(b"a" * 10))
    is_held = _SPAWN.Event()
    process = _SPAWN.Process(target=_hold, args=(Cache(folder, 100), site.url("/a.mp4"), is_held), daemon=True)
    process.start()
    assert begun.wait(60)
    process.kill()
    process.join(60)
    assert len(list(folder.glob("*.part"))) == 1
    site.answers["/a.mp4"] = content(b"a" * 10)
    assert fetched(fetcher(), site.url("/a.mp4")) == b"a" * 10
    assert list(folder.glob("*.part")) == []


def test_threads_share_it_within_its_bound(site: Site, fetcher: Make, folder: Path) -> None:
    make = fetcher(most_bytes=30, patience_s=60, queue_s=60)
    urls = [site.url(f"/{number % 5}.mp4") for number in range(40)]
    for number in range(5):
        site.answers[f"/{number}.mp4"] = content(bytes([number]) * 10)
    seen: list[tuple[str, bytes]] = []
    threads = [
        threading.Thread(target=lambda part: seen.extend((url, fetched(make, url)) for url in part), args=(urls[i::3],))
        for i in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(seen) == sorted((url, bytes([int(url[-5])]) * 10) for url in urls)
    assert sum(path.stat().st_size for path in clips(folder)) <= 30


def test_the_folder_is_where_the_user_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VLLAVA_CACHE", str(tmp_path))
    assert default_folder() == tmp_path / "clips"
    monkeypatch.delenv("VLLAVA_CACHE")
    assert default_folder().parts[-2:] == ("vllava", "clips")
