"""Words become paths: files as they are, folders as the clips in them, - as what is piped."""

from __future__ import annotations

import io
import os
import re
import sys
from pathlib import Path

import pytest

from tests.media.zoo import CLOSED, plain_clip
from vllava_cli.errors import UsageError
from vllava_cli.media import inputs


class Terminal(io.BytesIO):
    def isatty(self) -> bool:
        return True


class Endless(io.BytesIO):
    """Gives as many bytes as it is asked for."""

    def read(self, size: int | None = -1) -> bytes:
        if size is None or size < 0:
            pytest.fail("it was asked for all that there is")
        return b"\n" * size


class Unreadable(io.BytesIO):
    """As stdin is after `vllava … - < folder`."""

    def read(self, _size: int | None = -1) -> bytes:
        raise IsADirectoryError(21, "Is a directory")


def touched(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


def found(
    *words: str, piped: bytes | None = None, is_recursive: bool = False, is_null: bool = False
) -> tuple[list[str], list[str]]:
    """The paths, and what was told."""
    told: list[str] = []
    stdin = None if piped is None else io.BytesIO(piped)
    paths = inputs.paths(words, stdin=stdin, is_recursive=is_recursive, is_null=is_null, tell=told.append)
    return paths, told


def test_files_stay_as_given_in_their_order_also_twice_and_missing() -> None:
    touched("b.mp4", "notes.txt")
    words = ["b.mp4", "gone.mp4", "./b.mp4", "notes.txt", "b.mp4", "n" * 5000]
    assert found(*words) == (words, [])


def test_a_folder_becomes_its_media_files_sorted() -> None:
    touched(".clips/b.MP4", ".clips/a.mkv", ".clips/c.jpeg", ".clips/d.txt", ".clips/.hidden.mp4", ".clips/inner/d.mp4")
    assert found(".clips", "x.mp4") == ([".clips/a.mkv", ".clips/b.MP4", ".clips/c.jpeg", "x.mp4"], [])


def test_all_folders_below_are_read_when_asked_but_hidden_ones() -> None:
    touched("clips/b.mp4", "clips/b/c.mp4", "clips/b/a/z.gif", "clips/.git/d.mp4", "clips/b.mp4.d/e.mp4")
    expected = ["clips/b/a/z.gif", "clips/b/c.mp4", "clips/b.mp4", "clips/b.mp4.d/e.mp4"]
    assert found("clips", is_recursive=True) == (expected, [])


def test_every_ending_of_a_file_that_is_read_is_found_in_a_folder() -> None:
    endings = [
        *("3g2", "263", "264", "265", "asf", "avi", "avif", "divx", "dv", "f4v", "flv", "gif", "h263", "h264", "hevc"),
        *("ivf", "jpg", "m2t", "m2v", "m4v", "mjpeg", "mjpg", "mkv", "mov", "mp4", "mpg", "mpo", "mts", "mxf", "nut"),
        *("obu", "ogg", "ogv", "ppm", "tod", "ts", "vob", "webm", "wmv", "y4m"),
    ]
    touched(*(f"clips/a.{ending}" for ending in endings))
    assert found("clips") == (sorted(f"clips/a.{ending}" for ending in endings), [])


def test_programs_in_typescript_are_no_transport_streams(tmp_path: Path) -> None:
    plain = plain_clip(tmp_path / "clips.ts", 3, encoding=CLOSED).read_bytes()
    touched("clips/empty.ts", "clips/a.ts", "clips/torn.mts", "clips/program.ts", "clips/module.MTS", "clips/words.ts")
    Path("clips/a.ts").write_bytes(plain)
    Path("clips/torn.mts").write_bytes(plain[99:])
    Path("clips/program.ts").write_text("export const G = 71;\n")
    Path("clips/module.MTS").write_text("// \N{LATIN SMALL LETTER E WITH ACUTE}\n" * 999)
    Path("clips/words.ts").write_text("<?xml version='1.0'?><TS/>", encoding="utf-16")
    os.mkfifo("clips/pipe.ts")
    Path("clips/gone.ts").symlink_to("gone")
    paths = [f"clips/{name}" for name in ("a.ts", "empty.ts", "gone.ts", "pipe.ts", "torn.mts")]
    assert found("clips") == (paths, [])
    assert noticed("clips") == ["3 files of 'clips' were left out: 2 .ts, 1 .mts."]


def noticed(*words: str, is_recursive: bool = False) -> list[str]:
    told: list[str] = []
    inputs.paths(words, stdin=None, is_recursive=is_recursive, is_null=False, tell=lambda _: None, notice=told.append)
    return told


def test_the_other_files_of_folders_are_counted_in_one_sentence() -> None:
    touched("a/b.mp4", "a/1.txt", "a/2.TXT", "a/.hidden.txt", "a/in/3.srt", "one/x.rm", "bare/README", "media/a.mp4")
    touched(
        *(f"many/{n}.{ending}" for ending in ["rm", "json", "txt", "srt", "xml", "nfo"] for n in range(len(ending)))
    )
    touched("many/LICENSE", "many/a.\xe9t\xe9", "many/a.a long ending of a name")
    assert noticed("a") == ["2 files of 'a' were left out: 2 .txt."]
    assert noticed("a", is_recursive=True) == ["3 files of 'a' were left out: 2 .txt, 1 .srt."]
    assert noticed("one") == ["1 file of 'one' was left out: 1 .rm."]
    assert noticed("bare") == ["1 file of 'bare' was left out."]
    assert noticed("many") == ["21 files of 'many' were left out: 4 .json, 3 .nfo, 3 .srt, 3 .txt and 8 others."]
    assert noticed("a", "media", "one", "gone") == ["3 files of 2 folders were left out: 2 .txt, 1 .rm."]
    assert noticed("media", "a/1.txt") == []


def test_a_folder_with_the_name_of_a_clip_is_none() -> None:
    touched("clips/a.mp4/b.mp4")
    assert found("clips")[0] == []
    assert found("clips", is_recursive=True) == (["clips/a.mp4/b.mp4"], [])


def test_loops_of_links_end_and_each_folder_is_read_once_under_its_own_name() -> None:
    touched("clips/z/a.mp4", "clips/z/b.mp4", "elsewhere/c.mp4")
    Path("clips/a-link").symlink_to("z")
    Path("clips/zz-link").symlink_to("z")
    Path("clips/z/up").symlink_to("..")
    Path("clips/far").symlink_to(Path("elsewhere").absolute())
    Path("elsewhere/back").symlink_to(Path("clips").absolute())
    expected = ["clips/far/c.mp4", "clips/z/a.mp4", "clips/z/b.mp4"]
    assert found("clips", is_recursive=True) == (expected, [])


def test_a_link_that_leads_nowhere_is_a_clip_that_is_missing() -> None:
    touched("clips/a.mp4")
    Path("clips/b.mp4").symlink_to("gone.mp4")
    Path("clips/c.mp4").symlink_to("c.mp4")
    Path("clips/d").symlink_to("gone")
    assert found("clips", is_recursive=True) == (["clips/a.mp4", "clips/b.mp4", "clips/c.mp4"], [])


def test_a_folder_without_clips_is_told_and_the_rest_goes_on() -> None:
    touched("empty/readme.txt", "outer/inner/a.mp4", "b.mp4")
    assert found("empty", "outer", "b.mp4") == (
        ["b.mp4"],
        [
            "'empty' has no videos or images in it. Name a folder that has some.",
            "'outer' has no videos or images in it. Add --recursive for the folders in it.",
        ],
    )


def test_with_recursive_only_a_whole_tree_without_clips_is_told() -> None:
    touched("outer/inner/a.mp4", "outer/empty/readme.txt", "none/inner/readme.txt")
    told = ["'none' has no videos or images in it. Name a folder that has some."]
    assert found("outer", "none", is_recursive=True) == (["outer/inner/a.mp4"], told)


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_told_and_the_rest_goes_on() -> None:
    touched("clips/a.mp4", "clips/locked/b.mp4")
    Path("clips/locked").chmod(0)
    told = ["'clips/locked' can't be read: permission denied. Check the folder, or leave it out."]
    try:
        assert found("clips", "clips/locked", is_recursive=True) == (["clips/a.mp4"], told * 2)
    finally:
        Path("clips/locked").chmod(0o700)


@pytest.mark.parametrize("clips", [["clips/a.mp4"], []])
def test_a_folder_that_is_too_deep_to_be_read_is_told_once_and_the_rest_goes_on(
    clips: list[str], tmp_path: Path
) -> None:
    Path("clips").mkdir()
    touched(*clips)
    os.chdir("clips")
    for _ in range(25):
        Path("d" * 200).mkdir()
        os.chdir("d" * 200)
    os.chdir(tmp_path)
    paths, (told,) = found("clips", is_recursive=True)
    assert paths == clips
    assert re.fullmatch(r"'clips/[d/]+' can't be read: file name too long. Check the folder, or leave it out.", told)


@pytest.mark.parametrize(
    "data", [b"b.mp4\n\n./a b.mp4\nclips\n", b"b.mp4\r\n\r\n./a b.mp4\r\nclips", b"b.mp4\n./a b.mp4\nclips"]
)
def test_paths_on_stdin_take_the_place_of_the_dash_folders_too(data: bytes) -> None:
    touched("clips/c.mp4")
    assert found("x.mp4", "-", "y.mp4", piped=data) == (["x.mp4", "b.mp4", "./a b.mp4", "clips/c.mp4", "y.mp4"], [])


@pytest.mark.parametrize("data", [b"b\n.mp4\0a\r\0", b"\0b\n.mp4\0\0a\r"])
def test_paths_with_nul_between_them_may_have_any_other_character(data: bytes) -> None:
    assert found("-", piped=data, is_null=True) == (["b\n.mp4", "a\r"], [])


def test_a_path_that_is_not_utf_8_comes_back_as_it_was() -> None:
    (path,) = found("-", piped=b"caf\xe9.mp4\n")[0]
    assert os.fsencode(path) == b"caf\xe9.mp4"


def test_a_dash_on_stdin_is_a_file_of_that_name_and_nothing_is_no_path() -> None:
    assert found("-", piped=b"-\n") == (["-"], [])
    assert found("-", piped=b"") == ([], [])


NO_PIPE = "- reads stdin, which is not a pipe here: find … | vllava batch QUESTION -, or name the files."


@pytest.mark.parametrize(
    ("words", "stdin", "sentence"),
    [
        ("-", io.BytesIO(b"a.mp4\0b.mp4\0"), "The paths on stdin have NUL bytes between them: add -0 (--null)."),
        (
            "-",
            Endless(),
            "stdin has more than 256 MiB of paths, the most that is read. Name the folders that they are in.",
        ),
        ("-", None, NO_PIPE),
        ("-", Terminal(b"a.mp4\n"), NO_PIPE),
        ("- a.mp4 -", io.BytesIO(), "stdin, -, was named more than once: it can be read only once. Name it once."),
        ("-", Unreadable(), "stdin can't be read: is a directory. Pipe paths into it, one a line."),
        ("a.mp4 ", None, "'' is not a path: is a shell variable empty? Name a file or a folder."),
    ],
)
def test_words_and_pipes_that_cannot_be_used(words: str, stdin: io.BytesIO | None, sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        inputs.paths(words.split(" "), stdin=stdin, is_recursive=False, is_null=False, tell=pytest.fail)
    assert str(caught.value) == sentence
