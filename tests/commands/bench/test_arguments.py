"""What the words of a bench's command line mean, and what doesn't go together."""

from __future__ import annotations

from pathlib import Path

import pytest

from vllava_cli.commands.bench.arguments import QUESTION, check, outputs_of, words_of
from vllava_cli.commands.bench.request import Bench, Configuration, Outputs
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


def test_files_go_where_they_are_told_to() -> None:
    save, plot = Path("a.json"), Path("a.PNG")
    assert outputs_of(save, save, plot, is_json=True) == Outputs(is_json=True, save=save, compare=save, plot=plot)


@pytest.mark.parametrize(
    ("save", "compare", "plot", "message"),
    [
        (None, None, "a.jpg", "--plot writes PNG, and 'a.jpg' doesn't end in .png"),
        ("a.png", None, "a.png", "--plot would replace what is in 'a.png'"),
        (None, "a.png", "a.png", "--plot would replace what is in 'a.png'"),
    ],
)
def test_a_chart_replaces_no_figures_and_is_a_png(
    save: str | None, compare: str | None, plot: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        outputs_of(save and Path(save), compare and Path(compare), Path(plot), is_json=False)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("bench", "message"),
    [
        (Bench(clip=Path("a"), question="?", random="7b", revision="main"), "so it has no --revision"),
    ],
)
def test_what_does_not_go_together_is_refused(bench: Bench, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check(bench)


def test_what_goes_together_is_not() -> None:
    check(Bench(clip=Path("a"), question="?", random="7b", configurations=(Configuration(precision="fp16"),)))
