"""What the words of a bench's command line mean, and what doesn't go together."""

from __future__ import annotations

from pathlib import Path

import pytest

from vllava_cli.commands.bench.bench_request import QUESTION, Bench, words_of
from vllava_cli.engine.measuring.figures import BenchTask
from vllava_cli.errors import UsageError


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ([], (None, QUESTION)),
        (["a.mp4"], (Path("a.mp4"), QUESTION)),
        (["Why?"], (None, "Why?")),
        (["a.mp4", "Why?"], (Path("a.mp4"), "Why?")),
        (["folder", "Why?"], (Path("folder"), "Why?")),
    ],
)
def test_words_are_a_clip_and_a_question(words: list[str], meant: tuple[Path | None, str]) -> None:
    assert words_of(words) == meant


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a.mp4", "Why?", "b.mp4"], "one clip and one question, and 3 words were given"),
        (["-"], "A clip from stdin, -, is read once"),
        (["a.mp4", " "], "The question is empty"),
    ],
)
def test_other_words_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        words_of(words)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"plot": "a.jpg"}, "--plot writes PNG, and 'a.jpg' doesn't end in .png"),
        ({"plot": "a.png", "save": "a.png"}, "--plot would replace what is in 'a.png'"),
        ({"plot": "a.png", "compare": "a.png"}, "--plot would replace what is in 'a.png'"),
    ],
)
def test_a_chart_replaces_no_figures_and_is_a_png(files: dict[str, str], message: str) -> None:
    paths = {option: Path(name) for option, name in files.items()}
    with pytest.raises(UsageError, match=message):
        Bench(task=BenchTask(question="?"), configurations=(), **paths)  # type: ignore[arg-type]


def test_figures_go_where_they_are_told_to() -> None:
    save = Path("a.json")
    found = Bench(task=BenchTask(question="?"), configurations=(), save=save, compare=save, plot=Path("a.PNG"))
    assert (found.save, found.compare, found.plot) == (save, save, Path("a.PNG"))
