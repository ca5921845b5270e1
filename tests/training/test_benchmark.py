"""The shipped benchmark is what `python -m training.benchmark` makes, and its right answers are among its choices."""

from __future__ import annotations

import csv
import json
from collections import Counter

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from training.benchmark import Film, annotations, films, pixels
from training.media import Pixels
from vllava_cli.demo import BENCHMARK, benchmark_files

FILMS = films()


def test_the_questions_are_those_of_the_recipe() -> None:
    texts = annotations(FILMS)
    assert {name: (BENCHMARK / name).read_text() for name in texts} == texts
    shipped = {path.as_posix() for path in benchmark_files()}
    assert shipped == {*texts, "README.txt", *(f"videos/{film.path}" for film in FILMS)}


@pytest.mark.parametrize("film", FILMS, ids=lambda film: film.name)
def test_each_clip_shows_its_scenes(film: Film) -> None:
    """Encoders differ in small things from version to version, so blocks of 8x8 pixels are compared."""
    with av.open(str(BENCHMARK / "videos" / film.path)) as container:
        shown = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    drawn = pixels(film)
    assert shown.shape == drawn.shape
    assert np.abs(blocks(shown) - blocks(drawn)).max() < 40


def blocks(frames: Pixels) -> NDArray[np.float64]:
    """[T, H, W, 3] -> the mean of each block [T, H/8, W/8, 3]; the last rows of 180 are left out."""
    count, height, width, _ = frames.shape
    whole = frames[:, : height // 8 * 8, : width // 8 * 8]
    return whole.reshape(count, height // 8, 8, width // 8, 8, 3).mean((2, 4))


def test_each_right_answer_is_one_of_two_to_four_different_choices() -> None:
    rows = [json.loads(line) for line in (BENCHMARK / "choices.jsonl").read_text().splitlines()]
    assert all(row["answer"] in row["candidates"] for row in rows)
    assert all(2 <= len(set(row["candidates"])) == len(row["candidates"]) <= 4 for row in rows)
    places = Counter(row["candidates"].index(row["answer"]) for row in rows)
    assert max(places.values()) < len(rows) / 2, "one place would be a good guess"


def test_the_same_question_about_two_parts_of_a_clip_has_two_answers() -> None:
    with (BENCHMARK / "moments.tsv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert {(row["start"], row["end"]) for row in rows} == {("0", "2"), ("2", "4")}
    for first, second in zip(rows[::2], rows[1::2], strict=True):
        assert (first["video"], first["question"]) == (second["video"], second["question"])
        assert first["answer"] != second["answer"]


def test_no_question_about_a_clip_comes_twice() -> None:
    rows = list(csv.DictReader((BENCHMARK / "open.csv").read_text().splitlines()))
    asked = [(row["video_name"], row["question"]) for row in rows]
    for name, key in (("yes_no_q.json", "video_name"), ("choices.jsonl", "video")):
        text = (BENCHMARK / name).read_text()
        its = json.loads(text) if name.endswith(".json") else map(json.loads, text.splitlines())
        asked += [(name + row[key], row["question"]) for row in its]
    assert len(asked) == len(set(asked))
