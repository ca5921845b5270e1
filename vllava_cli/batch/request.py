"""The request of one `vllava batch`, and the functions that make it from the words of a command line.

The functions are pure, except that they check whether a word is a file. Errors of each function: UsageError.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Literal, Self, cast

from vllava_cli.answers import Agreeing, Sampling
from vllava_cli.batch.jobs import Shard
from vllava_cli.batch.rows import Format, fields_of, format_of
from vllava_cli.commands.start import names_a_clip
from vllava_cli.cues.formats import CUE_FORMATS
from vllava_cli.errors import UsageError
from vllava_cli.media.timeline.sidecars import SUFFIXES
from vllava_cli.nouns import (
    OFF,
    STDIN,
    DecodeLimits,
    Framing,
    Subs,
    Windowing,
    Wishes,
)
from vllava_cli.storage.objects import is_url

LOCAL = "local"
USAGE = 'vllava batch "QUESTION" PATH…'
USAGE_Q = 'vllava batch -Q "QUESTION" PATH…'
_OLD = "vllava: warning: -q before a question is read as -Q. Write -Q: -q means --quiet in every command."


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The sources of jobs: paths and questions, or a file that has both."""

    paths: tuple[str, ...] = ()
    questions: tuple[str, ...] = ()
    jobs: Path | None = None
    videos: tuple[Path, ...] = ()
    """The folders of the clips that a jobs file names; if there are none, the one of the jobs file."""
    is_recursive: bool = False
    is_null: bool = False
    """Paths on stdin end with NUL instead of a line break."""


@dataclass(frozen=True, kw_only=True)
class Destination:
    """The place for rows: a file, parts in a folder or below a URL, or stdout where neither is named."""

    path: Path | None = None
    parts: str | None = None
    """A folder, or a URL."""
    format: Format | Literal["lines"] = "jsonl"
    """"lines" are cues for people, a line each."""
    is_parquet: bool = False
    """Whether the parts are Parquet."""
    fields: tuple[str, ...] = ()
    is_safe: bool = False
    """Whether texts that a spreadsheet would evaluate get an apostrophe."""
    is_retrying: bool = False
    is_overwriting: bool = False
    is_pruning: bool = False
    beside: Format | None = None
    """The format of a file beside each clip; None writes none."""
    is_merging: bool = True
    """Whether neighbouring cues with equal texts become one."""
    is_in_order: bool = False
    """Whether rows are in the order of the jobs, which is that of time, also as JSON lines."""

    @property
    def has_table(self) -> bool:
        """True if the rows are written in another form when the run ends, so that they need journals of their own."""
        return self.format != "jsonl" or bool(self.fields) or self.is_parquet or self.is_in_order

    @property
    def has_cues(self) -> bool:
        """True if the output has cues instead of rows, so that it can't hold errors."""
        return self.format in ("lines", *CUE_FORMATS)

    def journal_of(self, output: Path) -> Path:
        """Returns the path of an output's journal: out.jsonl → out.jsonl, out.csv → out.csv.journal."""
        return output.with_name(f"{output.name}.journal") if self.has_table else output


@dataclass(frozen=True, kw_only=True)
class RayOptions:
    """The cluster that answers, how many engines and GPUs it uses, and which URLs it may fetch."""

    address: str = LOCAL
    """"local", "auto", "host:port" or "ray://host:port"."""
    actors: int | None = None
    """The number of engines; None chooses it by the cluster. The same holds for `gpus_per_actor`."""
    gpus_per_actor: float | None = None
    allowed: tuple[str, ...] = ()
    """The schemes that --allow named."""


@dataclass(frozen=True, kw_only=True)
class BatchRequest:
    """The request of one `vllava batch`, with all its options."""

    inputs: Inputs
    wishes: Wishes
    framing: Framing
    sampling: Sampling
    limits: DecodeLimits = field(default_factory=DecodeLimits)
    destination: Destination = field(default_factory=Destination)
    most_rows: int | None = None
    """How many questions are answered at once; None decides by the memory."""
    decoders: int | None = None
    devices: tuple[str, ...] = ()
    """The devices with a worker process each; if empty, this process uses the device of the plan."""
    ray: RayOptions | None = None
    shard: Shard | None = None
    is_failing_fast: bool = False
    is_dry: bool = False
    has_stats: bool = False
    has_letters: bool = False
    """Whether choices are written into the question, and their letters compared (--choice-style letter)."""
    is_hashing: bool = False
    """Whether rows get the SHA-256 of their clips."""
    has_clip_cache: bool = True
    server: str = OFF
    """The same as in `Ask`."""
    windowing: Windowing | None = None
    """How each video is divided into windows; None asks about it as a whole."""
    agreeing: Agreeing | None = None
    """How often each clip or window is sampled; None samples it once."""
    subs: Subs | None = None
    """Where what is spoken in the clips is read from; None reads nothing."""


@dataclass(frozen=True, kw_only=True)
class QuestionWords:
    """The arguments and questions of a command line, and whether --quiet was given.

    `notice` warns a user who wrote -q QUESTION, as -q means --quiet."""

    words: Sequence[str]
    questions: Sequence[str]
    is_quiet: bool
    notice: str = ""

    @classmethod
    def of(
        cls, line: Sequence[str], words: Sequence[str], questions: Sequence[str], *, has_jobs: bool, is_quiet: bool
    ) -> Self:
        """Reads -q QUESTION as -Q QUESTION, as earlier versions did, where the word after -q can only be a question.

        Such a word names no clip, there is no -Q, and one of these holds: there is --jobs, the first word is a path, or
        there are several such words.
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
    videos: Sequence[Path],
    *,
    is_recursive: bool,
    is_null: bool,
) -> Inputs:
    """Makes the inputs: the first word is the question, unless -Q or --jobs gives it; the other words are paths."""
    if any(not question.strip() for question in questions):
        raise UsageError("A question given with -Q is empty: give it a text, or leave it out.")
    if jobs is not None:
        if words:
            remedy = "." if questions else ", or give it with -Q if it is a question."
            raise UsageError(f"--jobs names the clips itself: leave {words[0]!r} out{remedy}")
        if is_recursive or is_null:
            about = "--recursive applies to folders" if is_recursive else "-0 applies to paths on stdin"
            raise UsageError(f"{about}, and --jobs names the clips itself. Leave one of them out.")
        return Inputs(questions=tuple(questions), jobs=jobs, videos=tuple(videos))
    if videos:
        raise UsageError(
            "--videos says where the clips of --jobs are, and there is no --jobs. Leave it out, or add --jobs FILE."
        )
    paths = tuple(words if questions else words[1:])
    if not questions:
        _check_question(words)
    if not paths:
        raise UsageError(f"No clip was given: {USAGE_Q if questions else USAGE}, or - to read paths from stdin.")
    if is_null and STDIN not in paths:
        raise UsageError("-0 needs paths on stdin: add - to the paths, as in find . -print0 | … -0 … -.")
    asked = tuple(questions or words[:1])
    return Inputs(paths=paths, questions=asked, is_recursive=is_recursive, is_null=is_null)


def destination_of(
    name: str | None,
    wished: Format | Literal["parquet"] | None,
    fields: str | None,
    *,
    has_ray: bool = False,
    is_retrying: bool,
    is_overwriting: bool,
    is_pruning: bool = False,
    is_safe: bool = False,
    is_beside: bool = False,
    is_merging: bool = True,
) -> Destination:
    """Makes the destination of -o: no name and - mean stdout, and with --ray the name is a folder or a URL.

    With --beside, --format is that of the files beside the clips, and that of -o follows from the name's ending.
    """
    path = None if name is None or name == STDIN else Path(name)
    flags = (("--retry-errors", is_retrying), ("--overwrite", is_overwriting), ("--prune", is_pruning))
    for flag, is_given in flags:
        if is_given and path is None and not (is_beside and flag == "--overwrite"):
            raise UsageError(f"{flag} needs a file of rows: name it with -o FILE.")
    if is_retrying and is_overwriting:
        raise UsageError("--overwrite does all jobs again, --retry-errors only those that failed. Give one of them.")
    if has_ray and wished not in (None, "jsonl", "parquet"):
        raise UsageError(f"--format {wished} can't be used with --ray: give jsonl or parquet.")
    if not has_ray and wished == "parquet":
        raise UsageError("--format parquet needs --ray. Give jsonl, csv or tsv, or add --ray.")
    format = "jsonl" if has_ray or wished == "parquet" else format_of(path, None if is_beside else wished)
    if is_safe and format not in ("csv", "tsv"):
        raise UsageError("--safe-cells applies only to tables: add --format csv or tsv, or leave it out.")
    if has_ray and path is None:
        raise UsageError("--ray writes parts into a folder: name it with -o, a path or a URL such as s3://BUCKET/RUN.")
    if name and is_url(name) and not has_ray:
        raise UsageError(f"{name!r} is a URL: rows go there only with --ray. Name a file, or add --ray.")
    return Destination(
        path=None if has_ray else path,
        parts=name if has_ray else None,
        format=format,
        is_parquet=wished == "parquet",
        is_safe=is_safe,
        fields=fields_of(fields) if fields is not None else (),
        is_retrying=is_retrying,
        is_overwriting=is_overwriting,
        is_pruning=is_pruning,
        beside=(cast(Format, wished) or "srt") if is_beside else None,
        is_merging=is_merging,
    )


def check_cues(batch: BatchRequest) -> None:
    """Raises a UsageError if the cues or the files beside clips that a batch asks for can't be made."""
    to = batch.destination
    cues = next((format for format in (to.format, to.beside) if format in CUE_FORMATS), None)
    if cues and not batch.windowing:
        raise UsageError(f"{cues} has a cue for each part of a clip: add --every 30s, --scenes or --at-chapters.")
    if cues and to.fields:
        raise UsageError(f"--fields chooses columns, and {cues} has none. Leave one of them out.")
    if batch.subs == "auto" and f".{to.beside}" in SUFFIXES:
        raise UsageError(
            f"--subs auto would read the {to.beside} files beside clips as what is spoken. Write another --format, "
            "or leave it out."
        )
    if not to.is_merging and not cues:
        raise UsageError("--no-merge is about cues: add --format srt, vtt or ffmeta, or leave it out.")
    if (cues or to.beside) and (batch.shard or batch.ray):
        what, other = ("--beside" if to.beside else f"--format {cues}"), "--shard" if batch.shard else "--ray"
        raise UsageError(f"{what} needs all windows of a clip, and {other} parts them. Leave one of them out.")


def devices_of(gpus: str | None, device: str | None) -> tuple[str, ...]:
    """Reads --gpus: "all" → ("all",), "0,2" → ("cuda:0", "cuda:2"), "cpu,cpu" → ("cpu", "cpu")."""
    if gpus is None:
        return ()
    if device is not None:
        raise UsageError("--gpus and --device both say where the model runs. Give one of them.")
    names = [name.strip() for name in gpus.split(",")]
    if not all(names) or ("all" in names and len(names) > 1):
        raise UsageError(
            f"{gpus!r} is not a list of GPUs: give --gpus all, or their numbers separated by commas, like 0,1."
        )
    return tuple(f"cuda:{name}" if name.isdigit() else name for name in names)


def shard_of(text: str | None) -> Shard | None:
    """Reads --shard: "3/16" → Shard(number=3, of=16)."""
    if text is None:
        return None
    parts = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    number, of = (int(part) for part in parts.groups()) if parts else (0, 0)
    if not 1 <= number <= of:
        raise UsageError(f"{text!r} is not a shard: give its number and how many there are, 1/16 to 16/16.")
    return Shard(number=number, of=of)


def ray_options_of(
    address: str | None,
    actors: str | None,
    gpus_per_actor: float | None,
    allowed: Sequence[str],
    *,
    gpus: str | None = None,
    shard: str | None = None,
    fields: str | None = None,
    is_pruning: bool = False,
    has_windows: bool = False,
    has_samples: bool = False,
    has_subs: bool = False,
) -> RayOptions | None:
    """Reads the options of --ray; None without it. Refuses options that --ray excludes, or that need --ray."""
    about_ray = (("--actors", actors), ("--gpus-per-actor", gpus_per_actor), ("--allow", allowed or None))
    for flag, value in about_ray if address is None else ():
        if value is not None:
            raise UsageError(f"{flag} applies only with --ray: add it, or leave it out.")
    if address is None:
        return None
    for flag, is_given, remedy in (
        ("--gpus", gpus is not None, "Say how many engines with --actors"),
        ("--shard", shard is not None, "Ray distributes the jobs itself: leave one of them out"),
        ("--every", has_windows, "Cut the clips first, or divide them with --shard"),
        ("--agree", has_samples, "Divide the clips with --shard, or use --gpus"),
        ("--subs", has_subs, "Leave --ray out, and divide the clips with --shard"),
        ("--fields", fields is not None, "Merge the parts and take the fields with jq"),
        ("--prune", is_pruning, "Merge the parts: rows of clips that have changed are left out"),
    ):
        if is_given:
            raise UsageError(f"{flag} can't be used with --ray. {remedy}.")
    count = None
    if actors not in (None, "auto"):
        count = int(actors) if re.fullmatch("[0-9]{1,6}", actors) else 0
        if not count:
            raise UsageError(f"--actors {actors!r} is not a number of engines: give 1 or more, or auto.")
    return RayOptions(address=address, actors=count, gpus_per_actor=gpus_per_actor, allowed=tuple(allowed))


def _check_question(words: Sequence[str]) -> None:
    """Raises a UsageError unless the first of the words is a question."""
    if not words:
        raise UsageError(f"No question and no clip was given: {USAGE}.")
    if _is_path(words[0]):
        what = "- is stdin" if words[0] == STDIN else f"{words[0]!r} is a clip"
        raise UsageError(f"{what} where the question is expected: {USAGE}, or {USAGE_Q}.")
    if not words[0].strip():
        raise UsageError(f"The question is empty: {USAGE}.")


def _is_path(word: str) -> bool:
    return word == STDIN or names_a_clip(word)
