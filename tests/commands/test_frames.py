"""`vllava frames` as its users meet it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.clips import H264, full_decode, reference_eight, write_clip
from tests.commands.shell import Shell, environment_of
from tests.media.zoo import CLOSED, changing
from vllava_cli import demo
from vllava_cli.commands.frames import Sheets, frame_name, run
from vllava_cli.commands.sheets import free_sheet_path, name_of, title_of
from vllava_cli.media.contact_sheet import Sheet, sheet_picture, tiled
from vllava_cli.media.decoder.stdin_file import Reader
from vllava_cli.media.preprocess import read_video_recipe
from vllava_cli.nouns import Framing
from vllava_cli.screen import Screen

Run = Callable[..., Shell]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_sheet_is_written_for_each_clip(shell: Run, clip: Path, other_clip: Path, tmp_path: Path) -> None:
    done = shell("frames", clip, other_clip)
    assert done == Shell(code=0, out="clip-frames.png\nother-frames.png\n", err="")
    assert names(tmp_path) == ["clip-frames.png", "other-frames.png"]
    assert [Image.open(tmp_path / name).size for name in names(tmp_path)] == [(994, 634), (994, 634)]
    assert shell("frames", "--whole", "--overwrite", clip, other_clip).code == 0
    assert [Image.open(tmp_path / name).size for name in names(tmp_path)] == [(610, 378), (922, 270)]


def test_a_sheet_shows_the_squares_of_the_model_that_is_named(shell: Run, clip: Path, tmp_path: Path) -> None:
    """As `write_sheet` would draw them; the demo model's squares are 64x64."""
    recipe = read_video_recipe(demo.CHECKPOINT)
    for words, fit in (([], "crop"), (["--fit", "pad"], "pad"), (["--fit", "squash"], "squash")):
        assert shell("frames", "-m", "demo", "--overwrite", clip, *words).code == 0
        with Reader() as reader:
            frames = tiled(reader.sample(clip, Framing()), recipe, fit=fit)
        expected = Sheet.of(frames, "clip.mp4", recipe, fit=fit)
        assert (tmp_path / "clip-frames.png").read_bytes() == sheet_picture(expected)
        assert expected.facts.endswith(f"; seen as 64x64, {fit}")


def test_each_frame_is_written_as_the_model_gets_it(shell: Run, clip: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    done = shell("frames", clip, "--each", "-o", "out")
    seconds = ("00.000", "00.300", "00.600", "00.900", "01.200", "01.500", "01.800", "02.100")
    assert names(tmp_path / "out") == [f"clip-{number}-00m{each}s.png" for number, each in enumerate(seconds, 1)]
    assert done.out.splitlines() == [f"out/{name}" for name in names(tmp_path / "out")]
    written = np.stack([np.asarray(Image.open(tmp_path / "out" / name)) for name in names(tmp_path / "out")])
    assert (written == reference_eight(full_decode(clip))).all()


def test_a_transparent_picture_lies_on_white_or_the_colour_that_is_named(shell: Run, tmp_path: Path) -> None:
    Image.new("RGBA", (64, 48)).save(tmp_path / "a.png")
    for words, colour in (([], (255, 255, 255)), (["--background", "navy"], (0, 0, 128))):
        assert shell("frames", tmp_path / "a.png", "--each", "--overwrite", "-o", f"{tmp_path}/out/", *words).code == 0
        (name,) = names(tmp_path / "out")
        assert Image.open(tmp_path / "out" / name).getpixel((5, 5)) == colour
    assert shell("frames", tmp_path / "a.png", "--background", "#12").code == 2


def test_frames_are_stretched_to_their_shape_unless_they_are_wanted_as_stored(shell: Run, tmp_path: Path) -> None:
    wide = write_clip(tmp_path / "wide.mkv", encoding=replace(H264, aspect=Fraction(64, 45)))
    for words, size in (((), (91, 48)), (("--as-stored",), (64, 48))):
        (name,) = shell("frames", wide, "--each", "--at", "0", "--overwrite", *words).out.splitlines()
        assert Image.open(tmp_path / name).size == size
    assert (np.asarray(Image.open(tmp_path / name)) == full_decode(wide)[0]).all()


def test_frames_of_several_sizes_are_written_as_they_are_and_probe_names_the_sizes(shell: Run, tmp_path: Path) -> None:
    changing(CLOSED, [(64, 36), (128, 72), (36, 64)], "part.h264")(tmp_path / "a.mkv", 24)
    written = shell("frames", "a.mkv", "--each", "--at", "0,0.9,2.3").out.splitlines()
    assert [Image.open(tmp_path / name).size for name in written] == [(64, 36), (128, 72), (36, 64)]
    (name,) = shell("frames", "a.mkv", "--each", "--at", "0.9").out.splitlines()
    assert Image.open(tmp_path / name).size == (128, 72)
    assert "  size       64x36, 128x72, 36x64\n" in shell("probe", "a.mkv").out
    facts = json.loads(shell("probe", "--json", "--full", "a.mkv").out)
    assert (facts["sizes"], facts["width"], facts["height"]) == (["64x36", "128x72", "36x64"], 64, 36)
    for words in ((), ("--whole",)):
        assert shell("frames", "a.mkv", "--overwrite", *words) == Shell(code=0, out="a-frames.png\n", err="")


@pytest.mark.parametrize("words", [{}, {"is_whole": True}], ids=["seen", "whole"])
def test_a_huge_picture_costs_the_caller_its_tile(words: dict[str, bool], tmp_path: Path) -> None:
    large = huge_picture(tmp_path / "large.ppm", 4000)
    assert peak_bytes(Sheets(clips=(large,), framing=Framing(), output=f"{tmp_path}/", **words)) < 4000 * 4000
    assert names(tmp_path) == ["large-frames.png", "large.ppm"]


def huge_picture(path: Path, side: int) -> Path:
    with path.open("wb") as file:
        file.write(b"P6 %d %d 255\n" % (side, side))
        file.truncate(file.tell() + 3 * side * side)
    return path


def peak_bytes(sheets: Sheets) -> int:
    """What the caller's own arrays take at most while the frames are drawn."""
    tracemalloc.start()
    try:
        assert run(sheets, Screen(is_quiet=True)) == 0
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_named_moments_come_in_the_order_given(shell: Run, clip: Path) -> None:
    row = json.loads(shell("frames", clip, "--at", "2,0:00.5,2", "--json").out)
    assert row == {
        "path": str(clip),
        "kind": "video",
        "frame_times_s": [2.0, 0.5, 2.0],
        "outputs": ["clip-frames.png"],
        "faults": [],
        "notes": [],
    }


def test_a_broken_clip_does_not_stop_the_others(shell: Run, clip: Path, tmp_path: Path) -> None:
    done = shell("frames", "gone.mp4", clip)
    message = "There is no file 'gone.mp4'. Check the path."
    assert done == Shell(code=1, out="clip-frames.png\n", err=f"vllava: {message}\n")
    assert names(tmp_path) == ["clip-frames.png"]
    row = json.loads(shell("frames", "gone.mp4", "--json").out)
    assert row == {"path": "gone.mp4", "error": message, "is_damaged": False}


def test_an_existing_file_is_replaced_only_where_that_is_asked_for(shell: Run, clip: Path, tmp_path: Path) -> None:
    target = tmp_path / "clip-frames.png"
    target.write_text("precious")
    done = shell("frames", clip)
    message = "'clip-frames.png' is already there. Give --overwrite to replace it, or another name with -o."
    assert done == Shell.failed(message)
    (tmp_path / "clip-2-00m01.000s.png").touch()  # one frame that is there keeps all from being written
    done = shell("frames", clip, "--each", "--at", "0,1,2")
    assert (done.code, done.out, target.read_text()) == (1, "", "precious")
    assert names(tmp_path) == ["clip-2-00m01.000s.png", "clip-frames.png"]
    assert shell("frames", clip, "--overwrite").code == 0
    assert Image.open(target).format == "PNG"


def test_a_folder_that_is_named_with_a_slash_is_made(shell: Run, clip: Path, other_clip: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert shell("frames", clip, "-o", "out").out == "out/clip-frames.png\n"
    assert shell("frames", clip, other_clip, "-o", "a/b/").out == "a/b/clip-frames.png\na/b/other-frames.png\n"
    assert shell("frames", clip, "--each", "--at", "1", "-o", "c/").out == "c/clip-1-00m01.000s.png\n"
    (tmp_path / "file").touch()
    assert shell("frames", clip, "-o", "file/") == Shell.failed(
        "The folder 'file' can't be made: file exists. Choose another place."
    )


def test_a_sheet_is_a_jpeg_where_its_name_says_so(shell: Run, clip: Path, tmp_path: Path) -> None:
    for name, form in (("a.jpg", "JPEG"), ("b.JPEG", "JPEG"), ("c.png", "PNG"), ("d", "PNG")):
        assert shell("frames", clip, "-o", name).out == f"{name}\n"
        assert Image.open(tmp_path / name).format == form
    difference = np.asarray(Image.open(tmp_path / "a.jpg"), int) - np.asarray(Image.open(tmp_path / "c.png"), int)
    assert abs(difference).mean() < 3


def test_stdout_gets_the_same_sheet(shell: Run, clip: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    command = f"cat '{clip}' | {sys.executable} -m vllava_cli frames - -o - > '{sheet}'"
    assert subprocess.run(command, shell=True, env=environment_of(tmp_path)).returncode == 0
    assert shell("frames", "-", stdin=clip.read_bytes()).out == "stdin-frames.png\n"
    assert sheet.read_bytes() == (tmp_path / "stdin-frames.png").read_bytes()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a.mp4", "b.mp4", "-o", "-"], "-o - writes one sheet: give one clip and neither --each nor --json"),
        (["a.mp4", "b.mp4", "-o", "c.png"], "-o c.png is not a folder, and several files are to be written."),
        (["a.mp4", "-o", "a.webp"], "'a.webp' has neither the ending of a PNG nor that of a JPEG"),
        (["a.mp4", "--show"], "--show draws in a terminal, and stdout isn't one here. Give -o FILE for a picture in a"),
        (["a.mp4", "--show", "--json"], "--show draws on stdout, where --json prints."),
        (["a.mp4", "--show", "--each"], "--each writes whole frames, a file each. Leave --show and --whole out."),
        (["a.mp4", "--each", "--fit", "pad"], "--each and --whole leave frames as they are. Leave --fit out."),
        (["a.mp4", "x/a.mkv"], "Several of the clips would be written as a."),
    ],
)
def test_outputs_that_do_not_go_together(words: list[str], message: str, shell: Run) -> None:
    done = shell("frames", *words)
    assert (done.code, done.out) == (2, "")
    assert message in done.err


def test_frames_are_named_so_that_they_sort() -> None:
    assert frame_name("a", 1, 8, 3.5) == "a-1-00m03.500s.png"
    assert frame_name("a", 7, 64, 3723.25) == "a-07-62m03.250s.png"


def test_a_file_is_written_and_nothing_drawn_where_there_is_no_terminal(shell: Run, clip: Path, tmp_path: Path) -> None:
    assert shell("frames", "--show", "-o", "a.png", clip) == Shell(code=0, out="a.png\n", err="")
    assert names(tmp_path) == ["a.png"]


def test_a_model_that_cannot_be_had_is_one_sentence(shell: Run, clip: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    fault = "The folder empty is not a checkpoint: it has no config.json."
    assert shell("frames", "-m", "./empty", clip) == Shell.failed(fault)
    assert shell("frames", "-m", "./empty", "--whole", clip).code == 0


@pytest.mark.skipif(os.name != "posix", reason="terminals are made with pexpect")
def test_a_terminal_shows_tiles_and_times_and_no_file_is_written(clip: Path, tmp_path: Path) -> None:
    import pexpect

    drawn, code = pexpect.run(
        f"{sys.executable} -m vllava_cli frames --quiet --show -m demo '{clip}'",
        cwd=str(tmp_path),
        env=environment_of(tmp_path, TERM="xterm-256color", COLORTERM="truecolor"),  # type: ignore[arg-type]
        dimensions=(40, 60),
        withexitstatus=True,
    )
    text = re.sub(r"\x1b\[[0-9;]*m", "", drawn.decode()).splitlines()
    assert code == 0
    assert text[0] == "clip.mp4"
    assert "".join(text[1:3]) == "64x48, h264, 10 frames a second, 0:02.40; seen as 64x64, crop"
    tiles = " ".join(["▀" * 14] * 4)
    assert text[3:] == [
        *[tiles] * 7,
        "   0:00.00        0:00.30        0:00.60        0:00.90",
        *[tiles] * 7,
        "   0:01.20        0:01.50        0:01.80        0:02.10",
    ]
    assert names(tmp_path) == []


def test_a_link_to_nowhere_is_not_a_free_name(tmp_path: Path) -> None:
    (tmp_path / "a-frames.png").symlink_to(tmp_path / "gone")
    assert free_sheet_path(Path("a.mp4"), tmp_path) == tmp_path / "a-frames-2.png"


def test_titles() -> None:
    assert title_of(Path("a/holiday.mp4")) == "holiday.mp4"
    assert title_of(Path("-")) == "stdin"
    assert title_of(Path("/")) == "/"


@pytest.mark.parametrize(
    ("clip", "name"),
    [
        ("a/holiday.mp4", "holiday"),
        ("-", "stdin"),
        ("a\x1b[31m\n\u202e.mp4", "a_[31m__"),
        ("caf\udce9.mp4", "caf_"),
        ("été.mp4", "été"),
        ("é" * 125 + ".mp4", "é" * 100),
        (".mp4", ".mp4"),
    ],
)
def test_files_are_named_after_their_clip(clip: str, name: str) -> None:
    assert name_of(Path(clip)) == name


def test_picked_frames_are_drawn_with_their_reasons_and_an_answer_about_them_can_be_replayed(
    shell: Run, clip: Path, tmp_path: Path
) -> None:
    done = shell("frames", "--pick", "keyframes", "--json", clip)
    row = json.loads(done.out)
    assert (done.code, set(row["reasons"])) == (0, {"key frame", "filled"})
    assert Image.open(tmp_path / "clip-frames.png").size == (994, 674)  # a line more below each of two rows of tiles
    asked = shell("ask", "-m", "demo", "--pick", "keyframes", "-v", "--json", clip, "What?")
    made = json.loads(asked.out)["made_with"]["clips"][0]
    assert (made["pick"], made["reasons"]) == ("keyframes", row["reasons"])
    assert f"Frames of {clip}: 0.00 s (key frame), " in asked.err
    (tmp_path / "rows.jsonl").write_text(asked.out)
    assert shell("replay", "rows.jsonl").code == 0
