"""Which words are clips and which is the question; what is planned before a model is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.commands.turns import Piped, Terminal
from tests.refusals import refused
from vllava_cli.batch.job_readers import MAX_JOB_BYTES
from vllava_cli.commands.start import clip_paths, question_of, split_words, start
from vllava_cli.demo import CHECKPOINT
from vllava_cli.engine.checkpoint import describe
from vllava_cli.engine.tokens import Tokens, read_tokens
from vllava_cli.errors import UsageError
from vllava_cli.nouns import SILENT, MediaKind, Source, Wishes
from vllava_cli.times import Stopwatch

SPLITS = [
    (["a.mp4", "Why?"], ["a.mp4"], "Why?"),
    (["a.jpg", "b.mp4", "Same dog?"], ["a.jpg", "b.mp4"], "Same dog?"),
    (["a.mp4", "-"], ["a.mp4"], None),
    (["a.mp4"], ["a.mp4"], None),
    (["a.mp4", "Is this b.mp4"], ["a.mp4"], "Is this b.mp4"),
    (["a.mp4", ""], ["a.mp4"], ""),
    (["-", "Why?"], ["-"], "Why?"),
    (["a.mp4", "-", "Same dog?"], ["a.mp4", "-"], "Same dog?"),
]


@pytest.mark.parametrize(("words", "clips", "question"), SPLITS)
def test_words_are_parted(words: list[str], clips: list[str], question: str | None) -> None:
    assert split_words(words, Piped(b"")) == (tuple(map(Path, clips)), question)


def test_a_last_word_that_is_a_file_is_a_clip(tmp_path: Path) -> None:
    (tmp_path / "clip").touch()
    assert split_words([str(tmp_path / "clip")], None) == ((tmp_path / "clip",), None)


TWICE = "stdin can't be the clip and the question too: give the question as the last argument."
REFUSED = [
    (["Why is this funny?"], 'No clip was given: vllava ask CLIP... "QUESTION".'),
    (["-"], '- alone is a clip without a question, or a question without a clip: vllava ask CLIP... "QUESTION".'),
    (["-", "-"], TWICE),
    (["-", "a.mp4"], TWICE),
    (["-", "-", "Why?"], "stdin, -, was named more than once: it can be read only once. Name it once."),
]


@pytest.mark.parametrize(("words", "message"), REFUSED)
def test_words_that_are_refused(words: list[str], message: str) -> None:
    assert refused(UsageError, split_words, words, Piped(b"")) == message


def test_a_file_that_is_called_like_stdin_is_still_a_file() -> None:
    assert clip_paths(["-", "./-", "a/-"], Piped(b"")) == (Path("-"), Path.cwd() / "-", Path("a/-"))


def test_a_clip_is_not_waited_for_at_a_terminal() -> None:
    assert clip_paths(["a.mp4"], Terminal(b"")) == (Path("a.mp4"),)
    for stdin in (Terminal(b""), None):
        assert refused(UsageError, clip_paths, ["a.mp4", "-"], stdin) == (
            "- reads a clip from stdin, which is not a pipe here: cat clip.mp4 | vllava …, or name a file."
        )


def test_the_question_comes_from_a_pipe_where_none_is_given() -> None:
    assert question_of(None, Piped("Où est le chien ?\n".encode())) == "Où est le chien ?\n"
    stdin = Piped(b"the next file of a while-read loop")
    assert (question_of("Why?", stdin), stdin.read()) == ("Why?", "the next file of a while-read loop")
    with pytest.raises(UsageError, match=r'^No question was given: vllava ask CLIP\.\.\. "QUESTION", or pipe it'):
        question_of(None, Terminal(b"never read"))


def test_a_question_from_a_pipe_has_an_end() -> None:
    whole = "x" * MAX_JOB_BYTES
    assert question_of(None, Piped(whole.encode())) == whole
    stdin = Piped(whole.encode() + b"xyz")
    said = refused(UsageError, question_of, None, stdin)
    assert said == "The question on stdin is longer than 1 MiB: give a shorter one."
    assert stdin.buffer.read() == b"yz"


@pytest.mark.parametrize("given", ["", "  ", None])
def test_an_empty_question_is_a_usage_error(given: str | None) -> None:
    said = refused(UsageError, question_of, given, Piped(b"\n"))
    assert said == "The question is empty: give it as the last argument, or on stdin with -."


def needed_bytes(tokens: Tokens, *kinds: MediaKind) -> int:
    wishes = Wishes(model="demo", device="cpu", precision="fp32")
    engine, _ = start(wishes, tokens, kinds, SILENT, Stopwatch(), check=str)
    return engine.plan.needed_bytes


def test_memory_is_planned_for_the_towers_that_are_loaded() -> None:
    tokens = read_tokens(describe(Source(model="demo", folder=CHECKPOINT)))
    tower_bytes = tokens.checkpoint.tower_parameters * 4
    both = needed_bytes(tokens, "video", "image")
    assert tower_bytes > 0
    assert needed_bytes(tokens, "image") == needed_bytes(tokens, "video") == both - tower_bytes
