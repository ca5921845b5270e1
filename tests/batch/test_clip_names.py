"""The clips of a jobs file are found as users have them: in folders, under other endings, by a benchmark's ids."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.batch.conftest import rows_of
from tests.batch.fork_server import Zygote
from tests.batch.parts import batch_of
from tests.refusals import refused
from vllava_cli import demo
from vllava_cli.batch.clip_names import ClipNames, FoundClips
from vllava_cli.batch.job_files import requests_in
from vllava_cli.batch.progress import report_found
from vllava_cli.batch.request import BatchRequest, RayOptions
from vllava_cli.errors import UsageError
from vllava_cli.screen import Screen

pytestmark = pytest.mark.usefixtures("in_a_folder")


def made(*names: str) -> None:
    """Makes files, and the folders that they are in."""
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


def written(name: str, *rows: object) -> Path:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return Path(name)


def paths(file: Path, *videos: str, stdin: bytes = b"") -> list[str]:
    """The paths of the clips that a jobs file names."""
    folders = [Path(name) for name in videos]
    return [one.path for one in requests_in(file, stdin=io.BytesIO(stdin), videos=folders, questions=("Why?",))]


def found_by(*rows: object, videos: Sequence[str] = ("clips",)) -> FoundClips:
    """What is reported of the clips of these rows."""
    told: list[FoundClips] = []
    folders = [Path(name) for name in videos]
    list(requests_in(written("j.jsonl", *rows), stdin=None, videos=folders, questions=("?",), on_found=told.append))
    (found,) = told
    return found


CLIPS = (
    *("vid1305.avi", "video7010.mp4", "v_1QIUV7WYKXg.mkv", "tumblr_n1_400.gif", "-4wsuPCjDBc_5_15.avi", "12.mp4"),
    *("both.jpg", "both.gif", "both.webm", "both.avi", "LOUD.MP4", "a.b.mp4", "plain", "inner/v_deep.mp4"),
    *("v_both.mp4", "photo.png", "plain.mp4", "text.txt", "vid12.avi"),
)


@pytest.fixture
def names(in_a_folder: Path) -> ClipNames:  # noqa: ARG001
    """Those in a folder of clips, as without --videos."""
    made(*(f"clips/{clip}" for clip in CLIPS))
    return ClipNames("clips")


FOUND = [
    ("plain", "clips/plain"),
    ("both.jpg", "clips/both.jpg"),
    ("both", "clips/both.avi"),
    ("vid1305", "clips/vid1305.avi"),
    ("tumblr_n1_400", "clips/tumblr_n1_400.gif"),
    ("-4wsuPCjDBc_5_15", "clips/-4wsuPCjDBc_5_15.avi"),
    ("LOUD", "clips/LOUD.MP4"),
    ("a.b", "clips/a.b.mp4"),
    ("inner/v_deep", "clips/inner/v_deep.mp4"),
    ("../clips/plain", "clips/../clips/plain"),
    ("12", "clips/12.mp4"),
]


def test_a_name_is_the_file_itself_or_one_with_an_ending(names: ClipNames) -> None:
    for name, path in FOUND:
        deep = ClipNames("clips", is_deep=True)
        each = {which.path(name, is_of_benchmark=known) for which in (names, deep) for known in (False, True)}
        assert each == {path}


def test_a_benchmark_has_forms_of_its_own(names: ClipNames) -> None:
    for name, file in (
        *(("1QIUV7WYKXg", "v_1QIUV7WYKXg.mkv"), ("1305", "vid1305.avi")),
        *(("7010", "video7010.mp4"), ("inner/deep", "inner/v_deep.mp4")),
    ):
        assert names.path(name, is_of_benchmark=True) == f"clips/{file}"
        assert names.path(name) == f"clips/{name}"


@pytest.mark.parametrize("is_of_benchmark", [False, True])
def test_what_is_not_there_is_a_path_all_the_same(names: ClipNames, is_of_benchmark: bool) -> None:
    gone = ("gone", "gone.mp4", "photo", "photo.mp4", "nowhere/a", "..", "", "inner/", "inner.mp4", "²", "x" * 300)
    for name in gone:
        assert names.path(name, is_of_benchmark=is_of_benchmark) == f"clips/{name}"
        assert ClipNames("gone").path(name, is_of_benchmark=is_of_benchmark) == f"gone/{name}"


def test_absolute_names_and_those_of_the_current_folder_stay_as_they_are(
    names: ClipNames, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = str(Path("clips/plain").absolute())
    assert ClipNames("elsewhere").path(plain, is_of_benchmark=True) == plain
    assert ClipNames("elsewhere").path("/gone/both") == "/gone/both"
    assert names.path("s3://bucket/plain") == "s3://bucket/plain"
    monkeypatch.chdir("clips")
    here = ClipNames("")
    assert [here.path(name) for name in ("both", "gone", "inner/v_deep")] == ["both.avi", "gone", "inner/v_deep.mp4"]


def test_a_folder_is_listed_once(names: ClipNames) -> None:
    names.path("gone")
    Path("clips/new.mp4").touch()
    assert names.path("new") == "clips/new"
    assert ClipNames("clips").path("new") == "clips/new.mp4"


def test_of_clips_that_differ_in_case_alone_it_is_always_the_same(names: ClipNames) -> None:
    for name in ("x.Mp4", "x.mP4", "x.MP4"):
        Path("clips", name).touch()
    if len(list(Path("clips").glob("x.*"))) == 3:
        assert names.path("x") == "clips/x.MP4"


def test_names_are_looked_up_where_the_jobs_file_is() -> None:
    made("set/a.mp4", "a.avi")
    assert paths(written("set/j.jsonl", {"video": "a"})) == ["set/a.mp4"]
    assert paths(Path("set/../set/j.jsonl")) == ["set/../set/a.mp4"]
    assert paths(Path("set/j.jsonl").absolute()) == [str(Path("set/a.mp4").absolute())]
    assert paths(Path("-"), stdin=Path("set/j.jsonl").read_bytes()) == ["a.avi"]
    assert paths(Path("set/j.jsonl"), ".") == ["a.avi"]


def test_without_videos_no_folder_within_the_folder_is_searched() -> None:
    made("set/a.mp4", "set/within/b.mp4", "set/frames/1.jpg")
    file = written("set/j.jsonl", *({"video": name} for name in ("a.avi", "/far/a", "b", "frames.mp4", "within.mp4")))
    assert paths(file) == ["set/a.mp4", "set/a.mp4", "set/b", "set/frames", "set/within.mp4"]


def test_videos_must_be_folders() -> None:
    made("set/a.avi")
    for name in ("gone", "set/a.avi"):
        expected = f"'{name}' is not a folder: give --videos the folder that the clips are in."
        assert refused(UsageError, paths, written("j.jsonl", {"video": "a"}), "set", name) == expected


CAFE = "caf\N{LATIN SMALL LETTER E WITH ACUTE}"
TREE = (
    *("one/0001/3238737531.mp4", "one/0002/24.webm", "one/train/same.mp4", "one/test/same.mp4"),
    *("one/1164/5.mp4", "one/x/a\nb.mp4", "one/x/film.mp4", "two/film.mp4", "one/frames/film/1.png"),
    *("one/direct.mp4", "one/copies/direct.mp4", "one/star/scenes/long.avi", "one/tv/s01_clip_00/00001.jpg"),
    *("one/tv/plan/notes.txt", "one/Loud/CLIP.MP4", "one/x/both.webm", "one/x/both.mkv", "one/x/._both.mp4"),
    *("one/x/v_known.mkv", "two/direct.avi", "two/y/24.mp4", "two/y/same.mp4", "two/own.mp4"),
    *(f"two/{CAFE}.mp4", "one/x/video9.mp4", "one/.hidden/secret.mp4"),
)  # fmt: skip
BELOW = [
    # A name without folders may be in any of them, and the ending may be another.
    ("3238737531", "one/0001/3238737531.mp4"),
    ("3238737531.avi", "one/0001/3238737531.mp4"),
    ("24", "one/0002/24.webm"),
    ("24.mp4", "two/y/24.mp4"),
    ("direct.mp4", "one/direct.mp4"),
    ("direct.avi", "two/direct.avi"),
    ("direct", "one/direct.mp4"),
    ("own", "two/own.mp4"),
    ("both.mp4", "one/x/both.mkv"),
    ("film", "two/film.mp4"),
    ("a\nb", "one/x/a\nb.mp4"),
    # A folder of pictures is a clip; other folders aren't.
    ("s01_clip_00", "one/tv/s01_clip_00"),
    ("s01_clip_00.mp4", "one/tv/s01_clip_00"),
    ("plan", "one/plan"),
    ("1164.mp4", "one/1164.mp4"),
    # A path is looked up by as many of its last parts as are there.
    ("test/same.mp4", "one/test/same.mp4"),
    ("./videos/test/same.mp4", "one/test/same.mp4"),
    ("/home/somebody/train/same.avi", "one/train/same.mp4"),
    ("C:\\data\\test\\same.mp4", "one/test/same.mp4"),
    ("y/same", "two/y/same.mp4"),
    ("/data/two/own.mp4", "two/own.mp4"),
    ("copies/direct.mp4", "one/copies/direct.mp4"),
    ("far/direct.mp4", "one/direct.mp4"),
    ("scenes/long", "one/star/scenes/long.avi"),
    ("nowhere/same.mp4", "one/nowhere/same.mp4"),
    ("../../3238737531.mp4", "one/0001/3238737531.mp4"),
    # Upper and lower case count, unless nothing else is found.
    ("clip", "one/Loud/CLIP.MP4"),
    ("Clip.avi", "one/Loud/CLIP.MP4"),
    ("DIRECT.MP4", "one/direct.mp4"),
    ("cafe\N{COMBINING ACUTE ACCENT}.mp4", f"two/{CAFE}.mp4"),
    # What is hidden, and what isn't there.
    ("secret.mp4", "one/secret.mp4"),
    ("gone.mp4", "one/gone.mp4"),
    ("known", "one/known"),
]


def test_folders_within_the_folders_are_searched() -> None:
    made(*TREE)
    names = ClipNames("one", "two", is_deep=True)
    assert {name: names.path(name) for name, _ in BELOW} == dict(BELOW)
    known = {name: names.path(name, is_of_benchmark=True) for name in ("known", "train/known", "9", "24")}
    assert known == {
        "known": "one/x/v_known.mkv",
        "train/known": "one/x/v_known.mkv",
        "9": "one/x/video9.mp4",
        "24": "one/0002/24.webm",
    }


def test_links_are_followed_once_and_loops_end() -> None:
    made("clips/a/x.mp4", "far/y.mp4")
    Path("clips/loop").symlink_to("..")
    Path("clips/a/loop").symlink_to(Path("clips").absolute())
    Path("clips/0").symlink_to("a")
    Path("clips/itself").symlink_to("itself")
    Path("clips/z.mp4").symlink_to(Path("far/y.mp4").absolute())
    Path("clips/far").symlink_to(Path("far").absolute())
    names = ClipNames("clips", is_deep=True)
    found = [names.match(name) for name in ("x", "y", "z", "itself", "gone/y")]
    assert [each.path for each in found] == [
        *("clips/a/x.mp4", "clips/far/y.mp4", "clips/z.mp4", "clips/itself", "clips/far/y.mp4")
    ]
    assert not any(each.rival for each in found)


def test_a_name_of_two_files_is_refused_unless_they_are_one() -> None:
    made(*TREE, "one/linked/first.mp4")
    Path("one/second").mkdir()
    os.link("one/linked/first.mp4", "one/second/first.mp4")
    assert paths(written("j.jsonl", {"video": "first"}), "one") == ["one/linked/first.mp4"]
    shutil.copy("one/x/film.mp4", "one/0002/film.mp4")
    for name, first, other in (
        *(("same.mp4", "test/same.mp4", "train/same.mp4"), ("film.avi", "0002/film.mp4", "x/film.mp4")),
        ("SAME", "test/same.mp4", "train/same.mp4"),
    ):
        assert refused(UsageError, paths, written("j.jsonl", {"video": "24"}, {"video": name}), "one", "two") == (
            f"'j.jsonl', line 2: \"video\" is '{name}', which is 'one/{first}' as well as 'one/{other}': give --videos "
            "the one folder that is meant, or write the path into the row."
        )
    assert paths(written("j.jsonl", {"video": "same.mp4"}), "two", "one") == ["two/y/same.mp4"]
    assert paths(written("j.jsonl", {"video": "same.mp4", "vid": "own"}), "one", "two") == ["two/own.mp4"]


def test_the_last_part_of_a_name_is_not_enough_where_it_tells_no_clips_apart() -> None:
    made("clips/1/video.mp4", "flat/deep/c.mp4")
    rows = [{"video": f"/data/{number}/video.mp4"} for number in (3, 2, 1)]
    assert paths(written("j.jsonl", *rows), "clips") == [
        *("/data/3/video.mp4", "/data/2/video.mp4", "clips/1/video.mp4")
    ]
    assert paths(written("j.jsonl", {"video": "x/c.mp4"}, {"video": "/y/x/c.mp4"}), "flat") == ["flat/deep/c.mp4"] * 2
    late = [{"video": "a/c.mp4"}] * 200 + [{"video": "b/c.mp4"}]
    assert refused(UsageError, paths, written("j.jsonl", *late), "flat") == (
        "'j.jsonl', line 201: \"video\" is 'b/c.mp4', and 'a/c.mp4' is another: of both there is only "
        "'flat/deep/c.mp4': give --videos the one folder that is meant, or write the path into the row."
    )


@pytest.mark.parametrize(
    ("clips", "rows", "key", "found"),
    [
        (["fFjv93ACGo8.mp4"], [{"video_id": "001", "videoID": "fFjv93ACGo8"}], "videoID", ["fFjv93ACGo8.mp4"]),
        (["001.mp4"], [{"video_id": "001", "videoID": "fFjv93ACGo8"}], "video_id", ["001.mp4"]),
        (["0074.mp4"], [{"q_uid": "0074", "google_drive_id": "1xB"}], "q_uid", ["0074.mp4"]),
        (["vid1305.avi"], [{"video_id": 1305, "id": 30937}], "video_id", ["vid1305.avi"]),
        (["0/42.mp4"], [{"video": 42, "qid": 6}], "video", ["0/42.mp4"]),
        (["s01_clip_00/00001.jpg"], [{"vid_name": "s01_clip_00", "qid": 3}], "vid_name", ["s01_clip_00"]),
        # The field of most rows stays that of a row whose clip is missing: "2" isn't taken for a clip.
        (
            ["a.mp4", "b.mp4", "2.mp4"],
            [{"video_id": str(number), "youtube_id": name} for number, name in enumerate("abc", 4)]
            + [{"video_id": "2", "youtube_id": "d"}],
            "youtube_id",
            ["a.mp4", "b.mp4", "c", "d"],
        ),
        # A row where that field finds nothing may name its clip in another.
        (["a.mp4", "b.mp4"], [{"video": "a"}, {"video": "gone", "vid": "b"}], None, ["a.mp4", "b.mp4"]),
        ([], [{"video_path": "x.mp4", "video": "x"}], "video", ["x"]),
        # A field that names no file isn't in the way of one that does.
        (["a.mp4"], [{"video": "a", "vid": ["b"], "youtube_id": True, "clip_name": "a\0"}], "video", ["a.mp4"]),
    ],
    ids=["Video-MME", "by number", "EgoSchema", "MSVD-QA", "NExT-QA", "TVQA", "some missing", "mixed", "none", "odd"],
)  # fmt: skip
def test_the_field_whose_files_are_there_names_the_clips(
    clips: list[str], rows: list[dict[str, object]], key: str | None, found: list[str]
) -> None:
    made("clips/x.txt", *(f"clips/{clip}" for clip in clips))
    requests = list(requests_in(written("j.jsonl", *rows), stdin=None, videos=[Path("clips")], questions=("?",)))
    assert [one.path for one in requests] == [f"clips/{each}" for each in found]
    if key:
        assert all(key not in one.fields for one in requests)
        assert [len(one.fields) for one in requests] == [len(row) - 1 for row in rows]


def test_what_was_found_is_counted_by_name() -> None:
    made("clips/a.mp4", "clips/b/c.mp4")
    rows = [{"video": name} for name in ("a", "c", "gone", "a", "gone", "/far/away.mp4", "http://x/y.mp4")]
    found = found_by(*rows)
    assert (found.total, found.missing, found.there) == (4, ("gone", "/far/away.mp4"), ())
    assert found_by({"video": "http://x/y.mp4"}).total == 0
    assert found_by({"video": "gone"}).there == ("a.mp4", "c.mp4")


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_cannot_be_read_counts_as_empty() -> None:
    made("clips/locked/a.mp4", "clips/b.mp4")
    Path("clips/locked").chmod(0)
    try:
        found = found_by({"video": "a"}, {"video": "b"}, {"video": "c"})
    finally:
        Path("clips/locked").chmod(0o700)
    assert (found.missing, found.unreadable) == (("a", "c"), (("clips/locked", "permission denied"),))


def test_names_that_are_not_utf8_are_found() -> None:
    name = os.fsdecode(b"caf\xe9")
    try:
        made(f"clips/deep/{name}.mp4")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    assert paths(written("j.jsonl", {"video": name}), "clips") == [f"clips/deep/{name}.mp4"]


def test_only_a_name_that_is_not_directly_there_needs_a_walk(monkeypatch: pytest.MonkeyPatch) -> None:
    made("clips/a.mp4", "clips/deep/b.mp4")
    walks: list[str] = []
    real = os.scandir
    monkeypatch.setattr(os, "scandir", lambda folder: walks.append(folder) or real(folder))
    names = ClipNames("clips", is_deep=True)
    assert (names.path("a"), walks) == ("clips/a.mp4", [])
    found = [names.path(name) for name in ("b", "gone", "B.mp4")]
    assert found == ["clips/deep/b.mp4", "clips/gone", "clips/deep/b.mp4"]
    assert walks == ["clips", "clips/deep"]


ALL = FoundClips(folders=("a", ""), total=2000, missing=(), unreadable=(), there=())
SOME = replace(ALL, missing=("x\n\x1b.mp4", "y", "z" * 70, *"qrstu"))
NONE = replace(ALL, total=2, missing=("x", "y"), there=("b.mp4", "c.mp4", "d.mp4", "e.mp4"))
LOCKED = replace(ALL, unreadable=(("a/b", "permission denied"),))
COUNT = "vllava: 2,000 of 2,000 clips found in 'a', '.'.\n"
LACK = f"vllava: 1,992 of 2,000 clips found in 'a', '.'; not found: x .mp4, y, …{'z' * 60} and 5 more.\n"


@pytest.mark.parametrize(
    ("found", "of", "is_quiet", "told"),
    [
        (ALL, batch_of(), False, ""),
        (ALL, batch_of(is_dry=True), False, COUNT),
        (SOME, batch_of(), False, LACK),
        (SOME, batch_of(), True, ""),
        (NONE, batch_of(ray=RayOptions()), False, "vllava: 0 of 2 clips found in 'a', '.'; not found: x, y.\n"),
        (replace(NONE, total=0, missing=()), batch_of(is_dry=True), False, ""),
        (LOCKED, batch_of(), False, "vllava: 'a/b' can't be read: permission denied. Clips in it aren't found.\n"),
    ],
)
def test_what_was_found_is_said(found: FoundClips, of: BatchRequest, is_quiet: bool, told: str) -> None:
    err = io.StringIO()
    report_found(found, of, Screen(err=err, is_quiet=is_quiet))
    assert err.getvalue() == told


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (NONE, "None of 2 clips is in 'a', '.': the jobs name x, y, and there is b.mp4, c.mp4, d.mp4 and 1 more."),
        (replace(ALL, total=1, missing=("x",)), "The clip is not in 'a', '.': the jobs name x, and there is no clip."),
    ],
)
def test_a_run_of_which_no_clip_is_found_is_refused(found: FoundClips, said: str) -> None:
    told = refused(UsageError, report_found, found, batch_of(), Screen(err=io.StringIO()))
    assert told == f"{said} Give --videos the folder of the clips."


def test_clips_from_several_folders_are_answered_and_the_others_are_rows(vllava: Zygote, tmp_path: Path) -> None:
    clip = next(path for path in demo.clips() if path.stem == "red-circle-moves-left")
    for name in ("one/1164/77.mp4", "two/b.mp4"):
        made(name)
        shutil.copy(clip, name)
    row = {"question": "What happens in this video?"}
    written("j.jsonl", *({"video": name} | row for name in (77, "b.avi", "gone")))
    words = ("batch", "--model", "demo", "--server", "off", "--jobs", "j.jsonl", "--videos", "one", "--videos", "two")
    done = vllava.run(*words, "-o", "out.jsonl", folder=tmp_path)
    rows = {row["path"]: row["answer"] or row["error"]["kind"] for row in rows_of(tmp_path / "out.jsonl")}
    assert (done.code, done.err.splitlines()[0]) == (1, "vllava: 2 of 3 clips found in 'one', 'two'; not found: gone.")
    red = "A red circle moves left."
    assert rows == {"one/1164/77.mp4": red, "two/b.mp4": red, "one/gone": "missing"}
