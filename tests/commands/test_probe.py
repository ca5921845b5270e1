"""`vllava probe` as its users meet it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
from PIL import Image

from tests.clips import MPEG4, cut, picture, write_clip
from tests.commands.shell import Shell
from tests.media.zoo import CLOSED, Maker, cropped, encoded, hdr
from vllava_cli.commands.probe import rows
from vllava_cli.nouns import Clip

Run = Callable[..., Shell]
MISSING = "There is no file 'gone.mp4'. Check the path."


def test_a_video_and_an_image_are_a_block_each(shell: Run, tmp_path: Path) -> None:
    write_clip(tmp_path / "a.avi", 24, encoding=MPEG4)
    Image.fromarray(picture(1)).save(tmp_path / "b.png")
    done = shell("probe", "a.avi", "b.png")
    lines = done.out.splitlines()
    assert (done.code, done.err) == (0, "")
    assert lines[:7] == [
        "a.avi",
        "  container  avi",
        "  codec      mpeg4 (yuv420p)",
        "  size       64x48",
        "  duration   2.40 s",
        "  rate       10 frames a second, constant",
        "  frames     24",
    ]
    assert lines[7].startswith("  way        ")
    assert lines[8:] == ["b.png", "  container  png", "  codec      png (rgb)", "  size       64x48"]


def test_only_damaged_files_are_called_damaged(shell: Run, tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "whole.mp4")
    cut(write_clip(tmp_path / "plain.avi", encoding=MPEG4), 0.7, "shorter.avi")
    cut(whole, 0.5, "nothing.mp4")
    Image.fromarray(picture(1)).save(tmp_path / "pages.tiff", save_all=True, append_images=[Image.new("L", (9, 9))])
    (tmp_path / "notes.txt").write_text("Dear diary, today…")
    names = ("whole.mp4", "shorter.avi", "nothing.mp4", "pages.tiff", "notes.txt", "gone.mp4")
    rows = [json.loads(line) for line in shell("probe", "--json", *names).out.splitlines()]
    assert [row["path"] for row in rows if row["is_damaged"]] == ["shorter.avi", "nothing.mp4"]
    assert rows[3]["notes"] == ["Only the first of the 2 pages of 'pages.tiff' is used."]


def test_json_is_an_object_a_line_also_for_what_cannot_be_used(shell: Run, clip: Path) -> None:
    done = shell("probe", "--json", clip, "gone.mp4", clip)
    first, missing, again = (json.loads(line) for line in done.out.splitlines())
    assert (done.code, done.err) == (1, f"vllava: {MISSING}\n")
    assert missing == {"path": "gone.mp4", "error": MISSING, "is_damaged": False}
    assert first == again
    assert first.pop("way") in ("seek", "decode")
    assert first.pop("way_reason").endswith(".")
    assert first == {
        "path": str(clip),
        "kind": "video",
        "container": "mp4",
        "codec": "h264",
        "pixel_format": "yuv420p",
        "width": 64,
        "height": 48,
        "rotation": 0,
        "sample_aspect_ratio": None,
        "sizes": [],
        "crop": None,
        "transfer": None,
        "duration_s": 2.4,
        "fps": 10.0,
        "is_rate_constant": True,
        "frame_count": 24,
        "is_damaged": False,
        "faults": [],
        "notes": [],
    }


WIDE = replace(CLOSED, aspect=Fraction(64, 45), rotation=90)
SHAPES: list[tuple[Maker, str, dict[str, object]]] = [
    (
        cropped(WIDE, 56, 36, -2, -2),
        "36x80, cropped to 56x36+2+4, pixels of 64:45, turned by 90 degrees",
        {"width": 36, "height": 80, "sample_aspect_ratio": "64:45", "crop": "56x36+2+4"},
    ),
    (
        encoded(replace(CLOSED, aspect=Fraction(640, 639))),
        "64x48, pixels of 640:639",
        {"width": 64, "height": 48, "sample_aspect_ratio": "640:639", "crop": None},
    ),
    (encoded(hdr("smpte2084")), "64x48", {"transfer": "PQ"}),
    (
        encoded(replace(CLOSED, aspect=Fraction(1))),
        "64x48",
        {"width": 64, "height": 48, "sample_aspect_ratio": None, "crop": None},
    ),
]


@pytest.mark.parametrize("full", [(), ("--full",)])
@pytest.mark.parametrize(("make", "size", "facts"), SHAPES)
def test_a_size_is_as_shown_and_what_it_comes_from_beside_it(
    shell: Run, tmp_path: Path, make: Maker, size: str, facts: dict[str, object], full: tuple[str, ...]
) -> None:
    make(tmp_path / "a.mp4", 9)
    assert f"  size       {size}\n" in shell("probe", *full, "a.mp4").out
    assert facts.items() <= json.loads(shell("probe", "--json", *full, "a.mp4").out).items()


def test_a_full_probe_decodes_every_frame(shell: Run, clip: Path) -> None:
    report = json.loads(shell("probe", "--json", "--full", clip).out)
    assert (report["way"], report["way_reason"]) == ("decode", "Every frame was decoded, as was asked.")


def test_stdin_is_a_clip(shell: Run, clip: Path) -> None:
    named, piped = (json.loads(shell("probe", "--json", word, stdin=clip.read_bytes()).out) for word in (clip, "-"))
    assert piped == named | {"path": "-", "container": "mov"}
    assert shell("probe", "-", stdin=clip.read_bytes()).out.startswith("stdin\n  container  mov\n")


def test_a_name_is_as_it_is_in_a_pipe_and_without_control_characters_in_messages(
    shell: Run, clip: Path, tmp_path: Path
) -> None:
    name = "a\x1b]0;owned\x07\n\u202e.mp4"
    (tmp_path / name).write_bytes(clip.read_bytes())
    done = shell("probe", name, "b\x1b[31m.mp4")
    assert done.out.startswith("a\x1b]0;owned\x07?\u202e.mp4\n  container  mp4\n")
    assert done.err == "vllava: There is no file 'b[31m.mp4'. Check the path.\n"
    assert json.loads(shell("probe", "--json", name).out)["path"] == name


def test_a_name_that_is_not_utf8_is_told_readably_with_its_bytes_beside_it(
    shell: Run, clip: Path, tmp_path: Path
) -> None:
    name = os.fsdecode(b"caf\xe9.mp4")
    try:
        (tmp_path / name).write_bytes(clip.read_bytes())
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    done = shell("probe", "--json", name)
    row = json.loads(done.out)
    assert (row["path"], row["path_bytes"]) == ("caf\\xe9.mp4", "Y2Fm6S5tcDQ=")
    assert done.out.isascii()


def test_long_durations_are_also_told_by_the_clock_and_what_is_not_known_is_said() -> None:
    film = Clip(path=Path("a"), kind="video", width=4, height=3, frame_count=9, duration_s=3723.25)
    assert dict(rows(film))["duration"] == "3723.25 s (1:02:03)"
    assert dict(rows(replace(film, transfer="HLG")))["colours"] == "HDR (HLG), shown in SDR"
    clip = Clip(path=Path("a"), kind="video", width=4, height=3, frame_count=9, rotation=90, faults=("One.", "Two."))
    assert rows(clip) == [
        ("container", ""),
        ("codec", ""),
        ("size", "4x3, turned by 90 degrees"),
        ("duration", "not known"),
        ("rate", "not known"),
        ("frames", "9"),
        ("fault", "One."),
        ("fault", "Two."),
    ]
