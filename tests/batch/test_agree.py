"""--agree as its users run it: each sample of a clip is asked about, and rows, ask and replay say what agreed."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from tests.batch.conftest import by_id
from tests.batch.fork_server import Zygote
from tests.clips import full_decode, picture, write_clip
from tests.commands.shell import Shell
from tests.engine.engines import EXACT, ask
from vllava_cli import demo
from vllava_cli.answers import Conversation, Sampling
from vllava_cli.engine.checkpoint import describe
from vllava_cli.engine.generate import Engine
from vllava_cli.engine.load import load
from vllava_cli.engine.tokens import read_tokens
from vllava_cli.nouns import Clip, Frames, Source

HAPPENS = "What happens in this video?"
MOVES, STANDS = "A red circle moves left.", "Nothing moves."
FPS, LONG = 24, 30
"""The reel's frames a second, and the frames of a window."""
Row = dict[str, Any]


@pytest.fixture(scope="module")
def reel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first 44 frames of each clip of the demo, one after another: the windows lie across the cuts."""
    path = tmp_path_factory.mktemp("reel") / "reel.mkv"
    scenes = [full_decode(clip)[:44] for clip in demo.clips() if clip.suffix == ".mp4"]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=FPS)
        stream.height, stream.width, _ = scenes[0][0].shape
        stream.pix_fmt = "bgr0"
        for image in (image for scene in scenes for image in scene):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def engine() -> Engine:
    folder = demo.CHECKPOINT
    return load(EXACT, read_tokens(describe(Source(model="demo", folder=folder))), {"video"})


def rows(done: Shell, code: int = 0) -> list[Row]:
    assert done.code == code, done.err
    return [json.loads(line) for line in done.out.splitlines()]


def samples_of(reel: Path, start: int, stop: int, of: int) -> tuple[list[list[float]], list[Frames]]:
    """The times and the frames of the samples of the frames from `start` to `stop` that differ, by the written rule."""
    images = full_decode(reel)
    shifts = [Fraction(number, of) for number in range(of)]
    every = [[start + int((i + shift) * (stop - start) / 8) for i in range(8)] for shift in shifts]
    places = [each for number, each in enumerate(every) if each not in every[:number]]
    clip = Clip(path=reel, kind="video", width=images[0].shape[1], height=images[0].shape[0], frame_count=len(images))
    times = [[round(place / FPS, 3) for place in each] for each in places]
    pixels = [np.stack([images[place] for place in each]) for each in places]
    return times, [Frames(clip=clip, pixels=each, times_s=tuple(its)) for each, its in zip(pixels, times, strict=True)]


def windows(reel: Path) -> list[tuple[int, int]]:
    """The windows in frames: the last one is shorter than a third of the others, and joins the one before."""
    count = len(full_decode(reel))
    starts = list(range(0, count - LONG // 3, LONG))
    return [*((start, start + LONG) for start in starts[:-1]), (starts[-1], count)]


@pytest.mark.parametrize("devices", [(), ("--gpus", "cpu,cpu")], ids=["here", "in two processes"])
def test_each_window_is_asked_about_once_for_each_sample(
    vllava: Zygote, reel: Path, engine: Engine, tmp_path: Path, devices: tuple[str, ...]
) -> None:
    words = ("batch", HAPPENS, reel, "--model", "demo", "--every", str(LONG / FPS), "--agree", "5", *devices)
    found = sorted(rows(vllava.run(*words, folder=tmp_path)), key=lambda row: row["start_s"])
    assert len(by_id(found)) == len(windows(reel)) > 5
    shares = list[float]()
    for row, (start, stop) in zip(found, windows(reel), strict=True):
        times, samples = samples_of(reel, start, stop, 5)
        said = [ask(engine, Conversation(attached=(frames,)), HAPPENS).text for frames in samples]
        (best, count), of = Counter(said).most_common(1)[0], len(said)
        assert of == (5 if stop - start == LONG else 3), "24 frames have three samples"
        shown = said.index(best)
        agreement = row["agreement"]
        agreement["frame_times_s"] = [[round(time_s, 3) for time_s in each] for each in agreement["frame_times_s"]]
        assert agreement == {"share": round(count / of, 4), "of": of, "answers": said, "frame_times_s": times}
        assert (row["answer"], row["stop_reason"], row["agreement_reason"]) == (best, "end", None)
        assert [round(time_s, 3) for time_s in row["frame_times_s"]] == times[shown]
        assert row["made_with"]["clips"][0].get("shift", 0) == [0, 0.2, 0.4, 0.6, 0.8][shown if of == 5 else 2 * shown]
        assert row["made_with"]["agree"] == {"samples": 5, "least_share": 0.0}
        shares.append(agreement["share"])
    assert min(shares) < max(shares) == 1, "the windows are all alike, and this test can't fail"


def test_a_window_without_enough_agreement_has_no_answer_and_its_row_can_be_made_again(
    vllava: Zygote, reel: Path, tmp_path: Path
) -> None:
    words = ("batch", HAPPENS, reel, "--model", "demo", "--every", str(LONG / FPS), "--agree", "5")
    plain, strict = (
        {row["start_s"]: row for row in rows(vllava.run(*words, *more, "-q", folder=tmp_path))}
        for more in ((), ("--min-agree", "0.81"))
    )
    for start_s, row in strict.items():
        share, before = plain[start_s]["agreement"]["share"], plain[start_s]
        wanted = (before["answer"], "end") if share > 0.81 else ("", "unsure")
        assert (row["answer"], row["stop_reason"], row["error"]) == (*wanted, None)
        assert row["id"] != before["id"] and row["agreement"] == before["agreement"]
    assert len({row["stop_reason"] for row in strict.values()}) == 2
    kept = tmp_path / "rows.jsonl"
    kept.write_text("".join(json.dumps(row) + "\n" for row in (*plain.values(), *strict.values())))
    again = vllava.run("replay", kept, folder=tmp_path)
    assert again.code == 0 and again.out.count(": same\n") == 2 * len(plain)


CHOSEN = ("--choices", f"{MOVES},{STANDS}")


def test_the_mean_of_the_probabilities_chooses(vllava: Zygote, reel: Path, engine: Engine, tmp_path: Path) -> None:
    words = ("batch", HAPPENS, reel, "--model", "demo", "--end", "2", "--agree", "3", *CHOSEN)
    (row,) = rows(vllava.run(*words, folder=tmp_path))
    sampling = Sampling(choices=(MOVES, STANDS))
    said = [
        ask(engine, Conversation(attached=(frames,)), HAPPENS, sampling)
        for frames in samples_of(reel, 0, 2 * FPS, 3)[1]
    ]
    means = [sum(column) / 3 for column in zip(*(each.probabilities for each in said), strict=True)]
    assert list(row["probabilities"].values()) == pytest.approx(means, abs=1e-4)
    assert row["answer"] == (MOVES, STANDS)[means.index(max(means))] and row["stop_reason"] == "choice"
    assert row["agreement"]["answers"] == [each.text for each in said]
    assert row["agreement"]["share"] == round(row["agreement"]["answers"].count(row["answer"]) / 3, 4)


LONE = {
    "one.mp4": lambda path: write_clip(path, 1),
    "eight.mp4": lambda path: write_clip(path, 8),
    "still.png": lambda path: Image.fromarray(picture(1)).save(path),
}


def test_clips_whose_samples_coincide_are_asked_about_once_and_the_row_says_why(vllava: Zygote, tmp_path: Path) -> None:
    for name, write in LONE.items():
        write(tmp_path / name)
    words = ("batch", HAPPENS, *LONE, "--model", "demo")
    plain, found = (
        {row["path"]: row for row in rows(vllava.run(*words, *more, "-q", folder=tmp_path))}
        for more in ((), ("--agree", "4", "--min-agree", "1"))
    )
    for name, row in found.items():
        assert row["answer"] == plain[name]["answer"] and row["stop_reason"] == "end"
        reason = "An image has only one picture" if name == "still.png" else "All samples show the same frames"
        assert row["agreement"] is None and row["agreement_reason"].startswith(reason)
        assert row["frame_times_s"] == plain[name]["frame_times_s"]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found.values()))
    assert vllava.run("replay", "rows.jsonl", folder=tmp_path).out.count(": same\n") == len(LONE)


def test_samples_that_show_the_same_frames_count_once(vllava: Zygote, tmp_path: Path) -> None:
    write_clip(tmp_path / "ten.mp4", 10)
    (row,) = rows(vllava.run("batch", HAPPENS, "ten.mp4", "--model", "demo", "--agree", "16", folder=tmp_path))
    places = [[int((i + Fraction(number, 16)) * 10 / 8) for i in range(8)] for number in range(16)]
    assert row["agreement"]["frame_times_s"] == [
        [place / 10 for place in each] for number, each in enumerate(places) if each not in places[:number]
    ]
    assert row["agreement"]["of"] == 5


def test_a_sample_that_cannot_be_read_is_the_error_of_its_jobs(vllava: Zygote, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(16):
        Image.fromarray(picture(number)).save(folder / f"{number}.png")
    (folder / "3.png").write_bytes((folder / "3.png").read_bytes()[:60])  # of the second sample of two
    asked = ("batch", "-Q", HAPPENS, "-Q", "What colour is it?", "--model", "demo")
    shutil.copy(demo.clips()[0], tmp_path / "good.mp4")
    jobs = "".join(json.dumps({"video": name}) + "\n" for name in ("pictures", "good.mp4"))
    (tmp_path / "jobs.jsonl").write_text(jobs)
    found = rows(vllava.run(*asked, "--jobs", "jobs.jsonl", "--agree", "2", folder=tmp_path), code=1)
    assert Counter((row["path"], row["error"] and row["error"]["kind"]) for row in found) == {
        ("pictures", "unreadable"): 2,
        ("good.mp4", None): 2,
    }
    assert all(row["agreement"] is None for row in found if row["error"])


def test_a_table_has_columns_for_it_and_fields_of_jobs_make_way(vllava: Zygote, clips: Path) -> None:
    name = "red-circle-moves-left.mp4"
    Path(clips / "jobs.jsonl").write_text(json.dumps({"video": name, "agreement": "mine"}) + "\n")
    words = ("batch", "-Q", HAPPENS, "--jobs", "jobs.jsonl", "--model", "demo", "--agree", "2", "--format", "csv")
    (row,) = csv.DictReader(io.StringIO(vllava.run(*words, folder=clips).out))
    assert json.loads(row["agreement"])["answers"] == [MOVES] * 2
    assert (row["agreement_reason"], row["job_agreement"]) == ("", "mine")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("ask", "a.mp4", "b.mp4", "?", "--agree", "3"), "--agree samples one clip, and 2 were named"),
        (("ask", "a.mp4", "?", "--agree", "3", "--at", "1"), "--agree moves the frames, and --at says where they are"),
        (("ask", "a.mp4", "?", "--agree", "3", "--pick", "scenes"), "--pick scenes chooses others. Leave one out."),
        (
            ("batch", "?", "a.mp4", "--agree", "3", "--pick", "keyframes"),
            "--agree moves evenly spread frames, and --pick",
        ),
        (("ask", "a.mp4", "?", "--agree", "3", "--temperature", "0.1"), "--agree answers greedily"),
        (("ask", "a.mp4", "?", "--agree", "1"), "'1' is not a whole number from 2 to 16"),
        (("ask", "a.mp4", "?", "--agree", "17"), "'17' is not a whole number from 2 to 16"),
        (("ask", "a.mp4", "?", "--agree", "3", "--min-agree", "1.1"), "'1.1' is not a number from 0 to 1"),
        (("batch", "?", "a.mp4", "--min-agree", "0.5"), "--min-agree is about the samples of --agree: add --agree 5"),
        (("batch", "?", "a.mp4", "--agree", "3", "--ray", "-o", "x"), "--agree can't be used with --ray."),
    ],
)
def test_what_does_not_suit_it_is_refused(vllava: Zygote, tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    done = vllava.run(*words, "--model", "demo", folder=tmp_path)
    assert (done.code, done.out) == (2, "") and message in done.err and done.err.count("\n") == 1


def test_ask_prints_the_answer_and_says_how_many_agree(vllava: Zygote, reel: Path, tmp_path: Path) -> None:
    def asked(*more: str) -> Shell:
        return vllava.run("ask", reel, HAPPENS, "--model", "demo", *UNLIKE, "--agree", "5", *more, folder=tmp_path)

    (row,) = rows(asked("--json"))
    agreement = row["agreement"]
    told = f"{round(5 * agreement['share'])} of 5 agree"
    assert agreement["share"] < 1 and row["answer"] in agreement["answers"]
    done = asked()
    assert (done.code, done.out, done.err.splitlines()[-1]) == (0, f"{row['answer']}\n", told)
    unsure = asked("--min-agree", "1")
    assert (unsure.code, unsure.out) == (0, "")
    assert unsure.err.splitlines()[-1] == f"{told}, less than --min-agree 1: there is no answer."
    whole = ("batch", HAPPENS, reel, "--model", "demo", *UNLIKE, "--agree", "5", "-q")
    (same,) = rows(vllava.run(*whole, folder=tmp_path))
    assert {key: same[key] for key in ("answer", "agreement", "stop_reason")} == {
        key: row[key] for key in ("answer", "agreement", "stop_reason")
    }
    (tmp_path / "row.jsonl").write_text(json.dumps(row))
    assert vllava.run("replay", "row.jsonl", folder=tmp_path).out == "row 1: same\n"
    row["agreement"]["answers"][-1] += " Far away."
    (tmp_path / "row.jsonl").write_text(json.dumps(row))
    other = vllava.run("replay", "row.jsonl", folder=tmp_path)
    assert other.code == 1 and other.out.startswith("row 1: differs\n") and "Far away." in other.out


UNLIKE = ("--start", "2.5", "--end", "3.75")
"""A part of the reel whose samples disagree."""
