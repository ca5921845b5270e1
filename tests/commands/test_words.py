"""Which words are clips and which is the question."""

import io
from pathlib import Path

import pytest

from vllava_cli.commands.words import question_of, split_words
from vllava_cli.errors import UsageError


class Piped(io.TextIOWrapper):
    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data))


class Terminal(Piped):
    def isatty(self) -> bool:
        return True


SPLITS = [
    (["a.mp4", "Why?"], ["a.mp4"], "Why?"),
    (["a.jpg", "b.mp4", "Same dog?"], ["a.jpg", "b.mp4"], "Same dog?"),
    (["a.mp4", "-"], ["a.mp4"], None),
    (["a.mp4"], ["a.mp4"], None),
    (["a.mp4", "b.MOV"], ["a.mp4", "b.MOV"], None),
    (["a.mp4", "Is this b.mp4"], ["a.mp4"], "Is this b.mp4"),
    (["a.mp4", ""], ["a.mp4"], ""),
]


@pytest.mark.parametrize(("words", "clips", "question"), SPLITS)
def test_words_are_parted(words: list[str], clips: list[str], question: str | None) -> None:
    assert split_words(words) == (tuple(map(Path, clips)), question)


def test_a_last_word_that_is_a_file_is_a_clip(tmp_path: Path) -> None:
    file = tmp_path / "clip"
    file.touch()
    assert split_words([str(file)]) == ((file,), None)


@pytest.mark.parametrize("words", [["Why is this funny?"], ["-"]])
def test_no_clip_is_a_usage_error(words: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        split_words(words)
    assert str(caught.value) == 'No clip was given: vllava ask CLIP... "QUESTION".'


def test_the_question_comes_from_a_pipe() -> None:
    assert question_of(None, Piped("Où est le chien ?\n".encode())) == "Où est le chien ?\n"


def test_a_given_question_leaves_stdin_alone() -> None:
    stdin = Piped(b"the next file of a while-read loop")
    assert question_of("Why?", stdin) == "Why?"
    assert stdin.read() == "the next file of a while-read loop"


def test_a_terminal_is_not_waited_for() -> None:
    with pytest.raises(UsageError) as caught:
        question_of(None, Terminal(b"never read"))
    assert str(caught.value) == 'No question was given: vllava ask CLIP... "QUESTION", or pipe it to stdin.'


@pytest.mark.parametrize("given", ["", "  ", None])
def test_an_empty_question_is_a_usage_error(given: str | None) -> None:
    with pytest.raises(UsageError) as caught:
        question_of(given, Piped(b"\n"))
    assert str(caught.value) == "The question is empty: give it as the last argument, or on stdin with -."
