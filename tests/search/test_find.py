"""`vllava find` as its users run it: grep's manners, kept answers, kills; the demo model answers about known scenes."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from pathlib import Path

import pytest

from tests.batch.fork_server import Zygote
from tests.commands.shell import Shell
from tests.search.conftest import Find
from tests.waiting import wait_for
from vllava_cli.search.hit_output import STILL

A0, A2, A4, A6 = (f"a.mp4:00:00:0{start}-00:00:0{start + 2}" for start in (0, 2, 4, 6))
B0, B2 = (f"in/b.mp4:00:00:0{start}-00:00:0{start + 2}" for start in (0, 2))
CIRCLE, STAR = "a red circle", "a blue star"
FRESH = "--no-answer-cache"


@pytest.mark.parametrize(
    ("words", "out", "code"),
    [
        ((CIRCLE, "a.mp4", "photo.png"), [f"{A0}  1.00", f"{A4}  1.00", "photo.png  1.00"], 0),
        ((CIRCLE, "in/b.mp4"), [], 1),
        (("a red circle moves", "a.mp4"), [], 1),
        ((STAR, "-r", "."), [f"{A2}  1.00", f"{B0}  1.00", f"{B2}  1.00"], 0),
        ((STAR, "-r"), [f"{A2}  1.00", f"{B0}  1.00", f"{B2}  1.00"], 0),
        ((STAR, "in/b.mp4", "a.mp4"), [f"{B0}  1.00", f"{B2}  1.00", f"{A2}  1.00"], 0),
        ((STAR, "a.mp4", "./a.mp4"), [f"{A2}  1.00"] * 2, 0),
        ((STAR, "a.mp4", "--start", "4s"), [], 1),
        ((STAR, "in/b.mp4", "--every", "3", "--overlap", "2.5", "-c"), ["in/b.mp4:3"], 0),
        (("-l", CIRCLE, "-r"), ["a.mp4", "photo.png"], 0),
        (("-l0", CIRCLE, "-r", "."), ["a.mp4\0photo.png\0"], 0),
        (("-lv", CIRCLE, "-r", "."), ["a.mp4", "in/b.mp4"], 0),
        (("-c", CIRCLE, "-r", "."), ["a.mp4:2", "in/b.mp4:0", "photo.png:1"], 0),
        (("-c", "-m1", CIRCLE, "-r", FRESH), ["a.mp4:1", "in/b.mp4:0", "photo.png:1"], 0),
        (("-vc", CIRCLE, "a.mp4"), ["a.mp4:2"], 0),
        (("-v", CIRCLE, "a.mp4"), [f"{A2}  0.00", f"{A6}  0.00"], 0),
        (("-v", CIRCLE, "photo.png"), [], 1),
        (("-m", "1", CIRCLE, "a.mp4", "photo.png", FRESH), [f"{A0}  1.00", "photo.png  1.00"], 0),
        (("--first", STAR, "a.mp4", "in/b.mp4", FRESH), [f"{A2}  1.00"], 0),
        (("-q", STAR, "a.mp4", FRESH), [], 0),
        (("-q", STAR, "photo.png"), [], 1),
        (("-e", CIRCLE, "-e", STAR, "a.mp4", "-m2"), [f"{A0}  1.00  {CIRCLE}", f"{A2}  1.00  {STAR}"], 0),
        (("-e", CIRCLE, "-e", "Is there a circle?", "--all", "a.mp4", "-c"), ["a.mp4:2"], 0),
        (("-e", CIRCLE, "-e", STAR, "--all", "a.mp4"), [], 1),
        (("-e", CIRCLE, "-e", STAR, "--all", "-v", "-c", "a.mp4"), ["a.mp4:4"], 0),
        ((CIRCLE, "a.mp4", "--threshold", "0", "-c"), ["a.mp4:4"], 0),
        ((CIRCLE, "a.mp4", "--threshold", "1"), [], 1),
        ((CIRCLE, "a.mp4", "--unsure", "0.9,1"), [f"{A0}  1.00 ?", f"{A4}  1.00 ?"], 1),
        ((CIRCLE, "a.mp4", "--unsure", "0.1,0.9", "-c"), ["a.mp4:2"], 0),
        (("-l", "--json", STAR, "-r"), ['{"path": "a.mp4"}', '{"path": "in/b.mp4"}'], 0),
        (("-c", "--json", CIRCLE, "a.mp4"), ['{"path": "a.mp4", "count": 2}'], 0),
        (("-c", "-l", CIRCLE, "a.mp4"), [], 2),
        ((CIRCLE, "a.mp4", "--in", "sound"), [], 2),
        ((CIRCLE, "a.mp4", "--in", "text"), [], 1),
        ((CIRCLE, "-0", "a.mp4"), [], 2),
        ((CIRCLE, "a.mp4", "--unsure", "0.9,0.1"), [], 2),
        (("a.mp4", "in/b.mp4"), [], 2),
        ((CIRCLE, "http://example.org/a.mp4"), [], 2),
        ((CIRCLE, "a.mp4", "--model", "./no-such-folder"), [], 2),
    ],
)  # fmt: skip
def test_the_manners_of_grep(find: Find, words: tuple[str, ...], out: list[str], code: int) -> None:
    done = find(*words)
    whole = out[0] if out and "\0" in out[0] else "".join(f"{line}\n" for line in out)
    assert (done.out, done.code) == (whole, code), done.err
    told = [line for line in done.err.splitlines() if "--no-skip-still asks about each" not in line]
    assert "demo model" in done.err or len(told) == (code == 2)


def test_a_row_says_what_was_asked_and_seen(find: Find) -> None:
    done = find("-e", CIRCLE, "-e", STAR, "photo.png", "a.mp4", "--json", "-m1", "--sort", "score")
    circle, photo = sorted(map(json.loads, done.out.splitlines()), key=lambda row: row["path"])
    score = circle["score"]
    assert score > 0.99 and circle == {
        "path": "a.mp4",
        "start_s": 0.0,
        "end_s": 2.0,
        "title": None,
        "query": CIRCLE,
        "question": "Is there a red circle?",
        "score": score,
        "class": "hit",
        "in": "picture",
        "probabilities": {"yes": score, "no": pytest.approx(1 - score, abs=1e-5)},
        "frame_times_s": [number / 4 for number in range(8)],
        "still": False,
        "model": "demo",
        "revision": None,
        "precision": "fp32",
    }
    assert (photo["start_s"], photo["end_s"], photo["frame_times_s"]) == (None, None, None)
    scores = [json.loads(line)["score"] for line in done.out.splitlines()]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize(
    ("words", "out", "code", "told"),
    [
        ((CIRCLE,), [f"{A0}  1.00", f"{A4}  1.00"], 2, 2),
        ((CIRCLE, "-s"), [f"{A0}  1.00", f"{A4}  1.00"], 2, 0),
        ((CIRCLE, "-c"), ["a.mp4:2"], 2, 2),
        ((CIRCLE, "-q"), [], 0, None),
        (("a purple star", "-q"), [], 2, 2),
    ],
)
def test_a_file_that_cannot_be_read_is_trouble(
    find: Find, footage: Path, tmp_path: Path, words: tuple[str, ...], out: list[str], code: int, told: int | None
) -> None:
    folder = tmp_path / "some"
    folder.mkdir()
    (folder / "broken.mp4").write_bytes(b"not a video")
    shutil.copy2(footage / "a.mp4", folder)
    done = find(*words, "broken.mp4", "a.mp4", "missing.mp4", folder=folder)
    faults = [line for line in done.err.splitlines() if "demo model" not in line]
    assert (done.out.splitlines(), done.code) == (out, code)
    assert told is None or len(faults) == told, faults
    assert all(name in done.err for name in ("broken.mp4", "missing.mp4")) or told in (None, 0)


def test_names_come_from_stdin_and_have_any_letters(vllava: Zygote, footage: Path, tmp_path: Path) -> None:
    folder = tmp_path / "some"
    folder.mkdir()
    name = b"new\nline \x1b[31m caf\xe9.mp4"
    shutil.copy2(footage / "a.mp4", os.fsencode(folder) + b"/" + name)
    words = ("find", "--model", "demo", FRESH, "-l0", CIRCLE, "-")
    done = vllava.start(*words, folder=folder, stdin=name + b"\0", stdout=str(tmp_path / "names")).wait()
    assert ((tmp_path / "names").read_bytes(), done.code) == (name + b"\0", 0), done.err


def poisoned(tmp_path: Path) -> dict[str, str]:
    """An environment in which nothing can be computed or decoded."""
    for name in ("torch", "av", "transformers"):
        (tmp_path / "poison" / name).mkdir(parents=True)
        (tmp_path / "poison" / name / "__init__.py").write_text(f"raise ImportError('{name} was imported')")
    return {"PYTHONPATH": f"{tmp_path / 'poison'}:{Path(__file__).parents[2]}"}


def test_the_same_search_is_free(find: Find, footage: Path, tmp_path: Path) -> None:
    """Nothing is decoded or computed again, also where the files have moved, or fewer hits are wanted."""
    store = tmp_path / "cache"
    first = find(CIRCLE, ".", "-r", store=store)
    moved = tmp_path / "moved"
    shutil.copytree(footage, moved)
    environment = poisoned(tmp_path) | {"VLLAVA_CACHE": str(store)}
    words = ("find", "--model", "demo", "--every", "2s", CIRCLE)
    again = Shell.run(*words, "a.mp4", "in/b.mp4", "photo.png", folder=moved, environment=environment)
    still = f"vllava: {STILL.format(windows='1 window', are='is')}\n"
    assert (again.code, again.out, again.err) == (0, first.out, still)
    fewer = Shell.run(*words, "a.mp4", "missing.mp4", "-m1", folder=moved, environment=environment)
    assert (fewer.code, fewer.out) == (2, f"{A0}  1.00\n")
    other = Shell.run(*words[:-1], STAR, "a.mp4", folder=moved, environment=environment)
    assert "torch was imported" in other.err


def rows_in(store: Path) -> int:
    path = store / "answers" / "answers.sqlite"
    try:
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as database:
            return int(database.execute("SELECT count(*) FROM kept").fetchone()[0])
    except sqlite3.Error:
        return 0


@pytest.mark.parametrize("count", [1, 3, 5])
def test_a_killed_search_goes_on(vllava: Zygote, footage: Path, tmp_path: Path, count: int) -> None:
    store, words = tmp_path / "cache", ("find", "--model", "demo", "--every", "0.25s", "--batch-size", "1", STAR, "-r")
    environment = {"VLLAVA_CACHE": str(store)}
    whole = vllava.run(*words, FRESH, folder=footage, environment=environment)
    running = vllava.start(*words, folder=footage, environment=environment)
    assert wait_for(lambda: rows_in(store) >= count)
    running.kill()
    running.wait()
    database = sqlite3.connect(store / "answers" / "answers.sqlite")
    assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    database.close()
    kept = rows_in(store)
    again = vllava.run(*words, folder=footage, environment=environment)
    assert (again.out, again.code, kept >= count) == (whole.out, 0, True)


def test_two_searches_at_once_keep_the_answers_of_both(vllava: Zygote, footage: Path, tmp_path: Path) -> None:
    environment = {"VLLAVA_CACHE": str(tmp_path / "cache")}
    runs = []
    for number, query in enumerate((CIRCLE, STAR)):
        folder = tmp_path / f"clips{number}"
        shutil.copytree(footage, folder)
        runs.append(
            vllava.start(
                "find", "--model", "demo", "--every", "2s", query, "a.mp4", folder=folder, environment=environment
            )
        )
    done = [run.wait() for run in runs]
    assert [each.code for each in done] == [0, 0], done
    # The windows of a.mp4, and four answers of each.
    assert rows_in(tmp_path / "cache") == 9


def test_a_closed_pipe_ends_it_quietly(vllava: Zygote, footage: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    words = ("find", "--model", "demo", "--every", "0.25s", "--batch-size", "1", STAR, "-r", FRESH)
    run = vllava.start(*words, folder=footage, stdout=str(pipe))
    with pipe.open() as reader:
        assert reader.readline() == "a.mp4:00:00:02-00:00:02.250  1.00\n"
    done = run.wait()
    assert done.code == 141 and "Traceback" not in done.err


def test_ctrl_c_prints_what_is_known(vllava: Zygote, footage: Path, tmp_path: Path) -> None:
    store, words = tmp_path / "cache", ("find", "--model", "demo", "--every", "0.1s", "--batch-size", "1", STAR, "-r")
    running = vllava.start(*words, folder=footage, environment={"VLLAVA_CACHE": str(store)})
    assert wait_for(lambda: rows_in(store) >= 4)
    running.interrupt()
    done = running.wait()
    assert done.code == 130 and "Interrupted with" in done.err


def test_a_query_may_be_said_instead_of_shown(find: Find, footage: Path, tmp_path: Path) -> None:
    for name in ("a.mp4", "photo.png"):
        shutil.copy2(footage / name, tmp_path)
    cues = "1\n00:00:03,000 --> 00:00:04,500\nNow: the R\u00c9D CIRCLE!\n\n2\n00:00:06,100 --> 00:00:06,200\nred\n"
    (tmp_path / "a.mp4").with_suffix(".srt").write_text(cues, encoding="utf-8")
    said = (f"{A2}  1.00", f"{A4}  1.00")
    for words, out in (
        (("--in", "text", "--model", "no/such-model"), list(said)),
        (("--in", "text,picture"), [f"{A0}  1.00", *said, "photo.png  1.00"]),
        (("--in", "picture"), [f"{A0}  1.00", f"{A4}  1.00", "photo.png  1.00"]),
        (("--in", "text,picture", "-e", STAR, "-e", CIRCLE, "--all"), [f"{A2}  1.00"]),
    ):
        queries = () if "-e" in words else (CIRCLE,)
        done = find(*queries, *words, "a.mp4", "photo.png", folder=tmp_path)
        assert ([line.partition("  a ")[0] for line in done.out.splitlines()], done.code) == (out, 0), words
    done = find(CIRCLE, "--in", "text,picture", "--json", "a.mp4", folder=tmp_path)
    places = [
        (row["start_s"], row["in"], row["probabilities"] is None) for row in map(json.loads, done.out.splitlines())
    ]
    assert places == [(0, "picture", False), (2, "text", True), (4, "text", True)]
    done = find(CIRCLE, "--in", "text", "a.mp4", "--sheet", "said.png", "--cut", "parts", folder=tmp_path)
    assert done.code == 0 and (tmp_path / "said.png").exists()
    assert [path.name for path in (tmp_path / "parts").iterdir()] == ["a-00.00.02-00.00.06.mp4"]
