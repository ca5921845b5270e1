"""What the words of a batch's command line mean together. Pure, but for a look whether a word is a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Self

from vllava_cli.batch.jobs import Shard, shard
from vllava_cli.batch.output import Destination
from vllava_cli.batch.request import Inputs
from vllava_cli.batch.tables import Format, fields_of, format_of
from vllava_cli.commands.positionals import names_a_clip
from vllava_cli.errors import UsageError
from vllava_cli.nouns import STDIN

USAGE = 'vllava batch "QUESTION" PATH…'
_OLD = "vllava: warning: -q before a question is read as -Q. Write -Q: -q means --quiet in every command."
USAGE_Q = 'vllava batch -Q "QUESTION" PATH…'


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The words and the questions of a command line, and whether -q was the --quiet that it means."""

    words: Sequence[str]
    questions: Sequence[str]
    is_quiet: bool
    notice: str = ""

    @classmethod
    def of(
        cls, line: Sequence[str], words: Sequence[str], questions: Sequence[str], *, has_jobs: bool, is_quiet: bool
    ) -> Self:
        """Reads -q QUESTION as earlier versions took it, where the word behind -q can't be anything else.

        That is a word that names no clip: with --jobs, where the first word is a path, or where there are several.
        """
        options = line[: line.index("--")] if "--" in line else line
        behind = [text for word, text in pairwise(options) if word == "-q" and text in words and not _is_path(text)]
        is_old = bool(behind) and not questions and (has_jobs or len(behind) > 1 or _is_path(words[0]))
        if not is_old:
            return cls(words=words, questions=questions, is_quiet=is_quiet)
        left = list(words)
        for text in behind:
            left.remove(text)
        return cls(words=left, questions=behind, is_quiet="--quiet" in options, notice=_OLD)


def inputs_of(
    words: Sequence[str],
    questions: Sequence[str],
    jobs: Path | None,
    videos: Path | None,
    *,
    is_recursive: bool,
    is_null: bool,
) -> Inputs:
    """Which words are paths: all with -Q, none with --jobs, else all but the first. Errors: UsageError."""
    if any(not question.strip() for question in questions):
        raise UsageError("A question of -Q is empty: give it a text, or leave it out.")
    if jobs is not None:
        _check_jobs(words, questions, is_recursive=is_recursive, is_null=is_null)
        return Inputs(questions=tuple(questions), jobs=jobs, videos=videos)
    if videos is not None:
        raise UsageError(
            "--videos says where the clips of --jobs are, and there is no --jobs. Leave it out, or add --jobs FILE."
        )
    paths = tuple(words if questions else words[1:])
    if not questions:
        _check_question(words)
    if not paths:
        raise UsageError(f"No clip was given: {USAGE_Q if questions else USAGE}, or - to read paths from stdin.")
    if is_null and STDIN not in paths:
        raise UsageError("-0 is about paths on stdin, and - is not among the paths. Add it: find . -print0 | … -0 … -.")
    asked = tuple(questions or words[:1])
    return Inputs(paths=paths, questions=asked, is_recursive=is_recursive, is_null=is_null)


def destination_of(
    name: str | None,
    wished: Format | None,
    fields: str | None,
    *,
    is_retrying: bool,
    is_overwriting: bool,
    is_pruning: bool = False,
    is_safe: bool = False,
) -> Destination:
    """- is stdout, as no name is. Errors: UsageError for options that need a file, or that contradict each other."""
    path = None if name is None or name == STDIN else Path(name)
    flags = (("--retry-errors", is_retrying), ("--overwrite", is_overwriting), ("--prune", is_pruning))
    for flag, is_given in flags:
        if is_given and path is None:
            raise UsageError(f"{flag} is about the rows in a file: name it with -o FILE.")
    if is_retrying and is_overwriting:
        raise UsageError("--overwrite does all jobs again, --retry-errors only those that failed. Give one of them.")
    format = format_of(path, wished)
    if is_safe and format == "jsonl":
        raise UsageError("--safe-cells is about the cells of a table: add --format csv or tsv, or leave it out.")
    return Destination(
        path=path,
        format=format,
        is_safe=is_safe,
        fields=fields_of(fields) if fields is not None else (),
        is_retrying=is_retrying,
        is_overwriting=is_overwriting,
        is_pruning=is_pruning,
    )


def devices_of(gpus: str | None, device: str | None) -> tuple[str, ...]:
    """ "all" → ("all",), "0,2" → ("cuda:0", "cuda:2"), "cpu,cpu" → ("cpu", "cpu"). Errors: UsageError."""
    if gpus is None:
        return ()
    if device is not None:
        raise UsageError("--gpus and --device both say where the model runs. Give one of them.")
    names = [name.strip() for name in gpus.split(",")]
    if not all(names) or ("all" in names and len(names) > 1):
        raise UsageError(f"{gpus!r} is no list of GPUs: give --gpus all, or their numbers with commas between, 0,1.")
    return tuple(f"cuda:{name}" if name.isdigit() else name for name in names)


def shard_of(text: str | None) -> Shard | None:
    return shard(text) if text is not None else None


def _check_jobs(words: Sequence[str], questions: Sequence[str], *, is_recursive: bool, is_null: bool) -> None:
    if words:
        remedy = "." if questions else ", or give it with -Q if it is a question."
        raise UsageError(f"--jobs names the clips itself: leave {words[0]!r} out{remedy}")
    for is_given, about in ((is_recursive, "--recursive is about folders"), (is_null, "-0 is about paths on stdin")):
        if is_given:
            raise UsageError(f"{about}, and --jobs names the clips itself. Leave one of them out.")


def _check_question(words: Sequence[str]) -> None:
    """The first of the words is it."""
    if not words:
        raise UsageError(f"No question and no clip was given: {USAGE}.")
    if _is_path(words[0]):
        what = "- is stdin" if words[0] == STDIN else f"{words[0]!r} is a clip"
        raise UsageError(f"{what} where the question is expected: {USAGE}, or {USAGE_Q}.")
    if not words[0].strip():
        raise UsageError(f"The question is empty: {USAGE}.")


def _is_path(word: str) -> bool:
    return word == STDIN or names_a_clip(word)
