"""`vllava batch --beside` and `-o clip.srt`: cues in files, what is left alone, and what a killed run leaves behind."""

from __future__ import annotations

import json
import random
import shutil
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.batch.conftest import by_id, rows_of, until_rows
from tests.batch.fork_server import Zygote
from tests.batch.parts import batch_of
from tests.commands.shell import Shell
from tests.refusals import refused
from vllava_cli import demo
from vllava_cli.batch.jobs import Shard
from vllava_cli.batch.request import Destination, RayOptions, check_cues, destination_of
from vllava_cli.errors import UsageError
from vllava_cli.nouns import Windowing

WORDS = ("batch", "--model", "demo", "What happens in this video?")
EVERY = ("--every", "1.25s")
RED, STAR = "red-circle-moves-left", "blue-star-grows"
"""Two of the six clips of the folder; each lasts 2.5 s."""
BROKEN = "'broken.mp4' is neither a video nor an image that can be read. Check the file or convert it to mp4."
KILLS, ROWS = 15, 62


def cues(text: str) -> str:
    return f"1\n00:00:00,000 --> 00:00:02,500\n{text}\n\n"


def beside(folder: Path, ending: str = "srt") -> dict[str, str]:
    """The files beside clips, by their stems."""
    return {path.stem: path.read_text() for path in sorted(folder.glob(f"*.{ending}"))}


@pytest.fixture
def few(clips: Path) -> Path:
    """The folder with these two clips and the broken one."""
    for path in clips.iterdir():
        if path.stem not in (RED, STAR, "broken"):
            path.unlink()
    return clips


def test_each_clip_gets_a_file_and_a_file_that_is_there_stays(vllava: Zygote, few: Path) -> None:
    done = vllava.run(*WORDS, ".", *EVERY, "--beside", "-q", folder=few)
    assert done == Shell(code=1, out="", err=f"vllava: {BROKEN}\nvllava: 1 job of 5 failed: 1 unreadable.\n")
    made = beside(few)
    assert made == {RED: cues("A red circle moves left."), STAR: cues("A blue star grows.")}
    (few / f"{RED}.srt").write_text("mine")
    (few / f"{STAR}.srt").unlink()
    again = vllava.run(*WORDS, f"{RED}.mp4", f"{STAR}.mp4", *EVERY, "--beside", folder=few)
    left = "vllava: 1 clip with a file of this kind beside: it is left as it is, --overwrite replaces it."
    assert (again.code, again.err.splitlines()[0]) == (0, left)
    assert "2 of 4 jobs answered" in again.err and beside(few) == made | {RED: "mine"}
    assert vllava.run(*WORDS, f"{RED}.mp4", *EVERY, "--beside", "--overwrite", folder=few).code == 0
    assert beside(few) == made


def test_rows_that_are_kept_make_the_files_that_are_missing(vllava: Zygote, few: Path) -> None:
    words = (*WORDS, f"{RED}.mp4", f"{STAR}.mp4", *EVERY, "-o", "../rows.jsonl", "--beside", "-f", "vtt")
    (few / f"{STAR}.vtt").write_text("mine")
    assert vllava.run(*words, folder=few).code == 0
    rows = (few / "../rows.jsonl").read_bytes()
    made = beside(few, "vtt")
    assert made[STAR] == "mine" and made[RED].startswith("WEBVTT\n\n00:00:00.000 --> ") and rows.count(b"\n") == 4
    (few / f"{RED}.vtt").unlink()
    again = vllava.run(*words, folder=few)
    assert (again.code, again.out) == (0, "") and "4 done before and skipped" in again.err
    assert "demo model" not in again.err, "a model was loaded for nothing"
    assert beside(few, "vtt") == made and (few / "../rows.jsonl").read_bytes() == rows


def test_a_file_that_cannot_be_written_costs_no_other(vllava: Zygote, few: Path) -> None:
    long = "x" * 248  # a hidden part with this name would be too long
    (few / f"{RED}.mp4").rename(few / f"{long}.mp4")
    done = vllava.run(*WORDS, f"{long}.mp4", f"{STAR}.mp4", *EVERY, "--beside", "-q", folder=few)
    fault = f"vllava: '{long}.srt' can't be written: file name too long. Check the path, or name another file.\n"
    assert done == Shell(code=1, out="", err=fault)
    assert beside(few) == {STAR: cues("A blue star grows.")}


def test_images_have_no_cues_and_tables_can_be_beside_clips_too(vllava: Zygote, clips: Path) -> None:
    done = vllava.run(*WORDS, "yellow-star.png", f"{RED}.mp4", *EVERY, "--beside", folder=clips)
    assert done.code == 0 and "vllava: 1 image without cues: an image has no time.\n" in done.err
    assert list(beside(clips)) == [RED]
    assert vllava.run(*WORDS, "yellow-star.png", f"{RED}.mp4", "--beside", "-f", "jsonl", folder=clips).code == 0
    rows = {stem: json.loads(text) for stem, text in beside(clips, "jsonl").items()}
    assert {stem: row["path"] for stem, row in rows.items()} == {RED: f"{RED}.mp4", "yellow-star": "yellow-star.png"}


def test_an_image_is_not_asked_about_where_only_cues_are_kept(vllava: Zygote, few: Path) -> None:
    shutil.copy(demo.CLIPS / "yellow-star.png", few / f"{RED}.png")
    words = (*WORDS, f"{RED}.png", f"{RED}.mp4", "broken.mp4", *EVERY, "--beside")
    done = vllava.run(*words, folder=few)
    told = "vllava: 1 image without cues: an image has no time.\n"
    assert done.code == 1 and told in done.err and "2 of 3 jobs answered" in done.err
    assert list(beside(few)) == [RED]
    plan = vllava.run(*words, "-o", "rows.jsonl", "--overwrite", "--dry-run", folder=few)
    assert f"{told}vllava: 1 of 3 clips can't be read:\n  {BROKEN}\n" in plan.err
    assert plan.out.startswith("jobs      4: 3 to answer, 1 about")


def test_no_output_replaces_the_clip_or_what_is_spoken_in_it(vllava: Zygote, few: Path) -> None:
    words = (*WORDS, f"{RED}.mp4", *EVERY, "-f", "srt", "--overwrite", "-o")
    whole = (few / f"{RED}.mp4").read_bytes()
    said = "'{}' is what is asked about, or is spoken in it: name another file."
    refused_clip = vllava.run(*words, f"./{RED}.mp4", folder=few)
    assert refused_clip == Shell.failed(said.format(f"{RED}.mp4")) and (few / f"{RED}.mp4").read_bytes() == whole
    (few / "mine.srt").write_text(cues("Look."))
    refused_words = vllava.run(*words, "mine.srt", "--subs", "mine.srt", folder=few)
    assert refused_words == Shell.failed(said.format("mine.srt")) and (few / "mine.srt").read_text() == cues("Look.")
    for name in (f"{RED}.srt", f"{RED}.en.srt"):
        would = f"--subs auto would read '{name}' as what is spoken. Name another file."
        assert vllava.run(*words, name, "--subs", "auto", folder=few) == Shell.failed(would, code=2)


def test_one_clip_can_have_its_cues_in_a_named_file(vllava: Zygote, few: Path) -> None:
    assert vllava.run(*WORDS, f"{RED}.mp4", *EVERY, "-o", "a.srt", folder=few).code == 0
    assert (few / "a.srt").read_text() == cues("A red circle moves left.")
    assert len(rows_of(few / "a.srt.journal")) == 2
    many = vllava.run(*WORDS, f"{RED}.mp4", f"{STAR}.mp4", *EVERY, "-o", "b.srt", folder=few)
    assert many == Shell.failed("srt is about one clip, and there are 2: --beside writes one for each.", code=2)
    two = vllava.run(*WORDS[:3], "-Q", "Who?", "-Q", "Why?", f"{RED}.mp4", *EVERY, "--beside", folder=few)
    said = "srt holds one text at a time. Ask one question, or write rows with -o FILE.jsonl."
    assert two == Shell.failed(said, code=2)
    (few / f"{RED}.mkv").write_bytes((few / f"{RED}.mp4").read_bytes())
    both = vllava.run(*WORDS, f"{RED}.mkv", f"{RED}.mp4", *EVERY, "--beside", folder=few)
    said = f"'{RED}.mkv' and '{RED}.mp4' would both have '{RED}.srt' beside them. Rename one of them, or "
    said += "write rows with -o FILE.jsonl."
    assert both == Shell.failed(said, code=2)


def test_killed_at_many_instants_it_has_each_row_once_and_only_whole_files(vllava: Zygote, clips: Path) -> None:
    (clips / "broken.mp4").unlink()
    out = clips.parent / "rows.jsonl"
    words = (*WORDS, ".", "--every", "0.25s", "--beside", "-o", out, "--batch-size", "4", "--decoders", "1")
    assert vllava.run(*words, folder=clips).code == 0
    whole, rows = beside(clips), by_id(rows_of(out))
    assert (len(whole), len(rows)) == (6, ROWS)
    dice, met = random.Random(3), set[int]()
    before = ROWS
    for _ in range(KILLS):
        if before == ROWS:
            for path in (out, *clips.glob("*.srt")):
                path.unlink()
            before = 0
        run = vllava.start(*words, folder=clips)
        until_rows(out, min(ROWS, before + dice.randint(0, 30)))
        time.sleep(dice.random() * 0.03)
        run.kill()
        assert run.wait().code in (-signal.SIGKILL, 0)
        found = beside(clips)
        assert found.items() <= whole.items()
        before = len(by_id(rows_of(out)))
        met.add(len(found))
    assert met & {1, 2, 3, 4, 5}, "the kills found nothing half done"
    assert vllava.run(*words, folder=clips).code == 0
    assert beside(clips) == whole and by_id(rows_of(out)) == rows


SRT, NEEDS = Destination(format="srt"), "has a cue for each part of a clip: add --every 30s, --scenes or --at-chapters."
WHOLE = "needs all windows of a clip, and {} parts them. Leave one of them out."


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"destination": SRT, "windowing": None}, f"srt {NEEDS}"),
        ({"destination": Destination(beside="vtt"), "windowing": None}, f"vtt {NEEDS}"),
        (
            {"destination": Destination(format="vtt", fields=("id",))},
            "--fields chooses columns, and vtt has none. Leave one of them out.",
        ),
        (
            {"destination": Destination(is_merging=False)},
            "--no-merge is about cues: add --format srt, vtt or ffmeta, or leave it out.",
        ),
        ({"destination": SRT, "ray": RayOptions()}, f"--format srt {WHOLE.format('--ray')}"),
        (
            {"destination": Destination(beside="csv"), "shard": Shard(number=1, of=2)},
            f"--beside {WHOLE.format('--shard')}",
        ),
        (
            {"destination": Destination(beside="vtt"), "subs": "auto"},
            "--subs auto would read the vtt files beside clips as what is spoken. Write another --format, "
            "or leave it out.",
        ),
    ],
)
def test_cues_that_cannot_be_made_are_refused(options: Mapping[str, Any], said: str) -> None:
    assert refused(UsageError, check_cues, batch_of(**({"windowing": Windowing(every_s=30)} | dict(options)))) == said


def test_the_format_is_that_of_the_files_beside_and_the_ending_that_of_the_rows() -> None:
    flags = {"is_retrying": False, "is_overwriting": False, "is_beside": True}
    assert destination_of("a.csv", "vtt", None, **flags) == Destination(path=Path("a.csv"), format="csv", beside="vtt")
    assert destination_of(None, None, None, **flags | {"is_overwriting": True}) == Destination(
        beside="srt", is_overwriting=True
    )
    said = "--safe-cells applies only to tables: add --format csv or tsv, or leave it out."
    assert refused(UsageError, destination_of, "a.srt", None, None, **flags, is_safe=True) == said
