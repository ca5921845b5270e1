"""Declares each option of the command line once, and reads the values of options."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import Annotated, Any, Literal, cast, get_args

import typer

from vllava_cli.answers import MOST_SAMPLES, Agreeing, Sampling
from vllava_cli.choices import choices_of
from vllava_cli.errors import UsageError
from vllava_cli.nouns import (
    AUTO,
    DEFAULT_MODEL,
    DEMO_MODEL,
    FRAMES_PER_CLIP,
    OFF,
    WHITE,
    WINDOW_FLAGS,
    Attention,
    Boundary,
    DecodeLimits,
    Fit,
    Framing,
    Pick,
    Precision,
    Subs,
    Windowing,
    Wishes,
)
from vllava_cli.storage.files import size_bytes
from vllava_cli.times import framing_of, time_of, times_of

PRECISIONS = ("auto", *get_args(Precision))
MOST_SEED = (1 << 63) - 1
ATTENTIONS = ("auto", "flash", "sdpa", "eager")


class Several(tuple[Any, ...]):
    """The values of one option that takes a comma-separated list."""


def read_by(read: Callable[[str], Any]) -> dict[str, Any]:
    """Makes typer read an option by a function that may raise UsageError: typer.Option(..., **read_by(time_of))."""

    def parse(text: str) -> Any:
        try:
            found = read(text)
        except UsageError as exc:
            raise typer.BadParameter(str(exc).removesuffix(".")) from exc
        return Several(found) if isinstance(found, tuple) else found

    return {"parser": parse}


def colour_of(text: str) -> str:
    """Reads a colour: "navy" → "#000080", "#FFF" → "#ffffff". Errors: UsageError."""
    if text == WHITE:  # typer reads the default, too
        return text
    from vllava_cli.media.pictures import colour_code

    try:
        return colour_code(text)
    except ValueError as exc:
        raise UsageError(f"{text!r} is not a colour: give a name (grey) or #rrggbb (#00ff7f).") from exc


def one_of(*known: str) -> dict[str, Any]:
    """Lets an option take one of `known`: typer.Option(..., **one_of("a", "b"))."""

    def parse(text: str) -> str:
        if text not in known:
            raise typer.BadParameter(f"{text!r} is not one of {', '.join(known)}")
        return text

    return {"parser": parse, "metavar": "|".join(known), "autocompletion": partly_completed(lambda: known)}


def several(one: dict[str, Any]) -> dict[str, Any]:
    """Lets an option take a comma-separated list: typer.Option(..., **several(number(int, 1))) reads "1, 4,16"."""

    def parse(text: str) -> Several:
        return Several(dict.fromkeys(one["parser"](part.strip()) for part in text.split(",")))

    return {**one, "parser": parse, "metavar": "LIST"}


def partly_completed(known: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """Makes a function that completes the last name of a list: "fp16,b" → "fp16,bf16"."""

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        given = before.split(",")
        return [f"{before}{comma}{name}" for name in known() if name.startswith(last) and name not in given]

    return complete


def _auto_or_off(incomplete: str) -> list[str]:
    """Completes the two words of an option that takes something else besides."""
    return [word for word in (AUTO, OFF) if word.startswith(incomplete)]


def models(incomplete: str) -> list[str]:
    """Completes the names of the demo and of the models in the hub's cache; the shell completes folders."""
    from vllava_cli.engine.hub import cached_models

    return [name for name in (DEMO_MODEL, *cached_models()) if name.startswith(incomplete)]


def row_fields() -> tuple[str, ...]:
    """Returns the names of the fields that all rows of a batch have."""
    from vllava_cli.batch.jobs import ROW_KEYS, WINDOW_KEYS
    from vllava_cli.commands.provenance import AGREEMENT_KEYS

    return (*ROW_KEYS, *AGREEMENT_KEYS, *WINDOW_KEYS)


def number(kind: type[int] | type[float], least: int = 0, most: float = inf, *, metavar: str = "N") -> dict[str, Any]:
    """Lets an option take a number from `least` to `most`: typer.Option(..., **number(int, 1))."""
    whole = "whole number" if kind is int else "number"
    bounds = f"{least} on" if most == inf else f"{least} to {most}"

    def parse(text: str | float) -> float:
        try:
            found = kind(text)
        except ValueError:
            found = kind(least - 1)
        if not least <= found <= most or found == inf:
            raise typer.BadParameter(f"{str(text)!r} is not a {whole} from {bounds}")
        return found

    return {"parser": parse, "metavar": metavar}


def server_of(text: str) -> str:
    """Reads the wish for a server. Errors: UsageError."""
    if text in (AUTO, OFF) or text.startswith(("http://", "https://")):
        return text
    raise UsageError(f"{text!r} is not auto, off or a URL: give one like http://127.0.0.1:8000.")


def positive_time(text: str) -> float:
    """Reads a time in seconds that isn't 0. Errors: UsageError."""
    found = time_of(text)
    if found == 0:
        raise UsageError(f"{text!r} is not above 0: give seconds (90.5) or h:m:s (0:01:30.5).")
    return found


Words = Annotated[
    list[str],
    typer.Argument(
        metavar="CLIP... [QUESTION]",
        help="Videos, images or folders of pictures, then the question. Without a question, or with - in its place, "
        "it is read from stdin; - in front of a question is a clip from stdin.",
    ),
]
Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        envvar="VLLAVA_MODEL",
        metavar="ID|FOLDER|demo",
        autocompletion=models,
        help="A hub id, a local folder, or demo.",
    ),
]
"""The same without -m, which is another option there."""
Revision = Annotated[
    str | None, typer.Option(metavar="REV", help="The hub's branch, tag or commit.", show_default="main")
]
AdapterName = Annotated[
    str | None,
    typer.Option(
        metavar="ID|FOLDER",
        help="A LoRA adapter to merge into the model: a hub id or a local folder.",
        show_default="none",
    ),
]
Device = Annotated[
    str | None, typer.Option(metavar="NAME", help="cpu, cuda, cuda:1, mps or xpu.", show_default="the first that fits")
]
FitWish = Annotated[
    Fit,
    typer.Option(
        **one_of(*get_args(Fit)),
        help="How a frame becomes square: crop cuts the sides off, pad adds bars, squash distorts.",
    ),
]
Background = Annotated[
    str,
    typer.Option(
        **read_by(colour_of),
        metavar="COLOUR",
        help="What is behind transparent pictures: a name or #rrggbb.",
        show_default="white",
    ),
]
AsStored = Annotated[
    bool,
    typer.Option(
        "--as-stored", help="Take a video's pixels as they are stored: not cropped, not stretched, HDR not converted."
    ),
]
Start = Annotated[
    float | None,
    typer.Option(
        **read_by(time_of), metavar="TIME", help="Look from here on: seconds or h:m:s.", show_default="the beginning"
    ),
]
End = Annotated[
    float | None,
    typer.Option(**read_by(time_of), metavar="TIME", help="Look until here: seconds or h:m:s.", show_default="the end"),
]
At = Annotated[
    Several | None,
    typer.Option(
        **read_by(times_of),
        metavar="TIMES",
        help="Look at these moments: seconds or h:m:s, separated by commas.",
        show_default="eight, evenly spread",
    ),
]
PickWish = Annotated[
    Pick,
    typer.Option(
        "--pick",
        **one_of(*get_args(Pick)),
        help="Which eight frames: uniform (as the model was trained), one for each of the longest scenes, or key "
        "frames.",
    ),
]
Clips = Annotated[
    list[str],
    typer.Argument(metavar="CLIP...", help="Videos, images or folders of pictures; - is a clip from stdin."),
]
JsonLines = Annotated[bool, typer.Option("--json", help="Print one JSON object for each clip, a line each.")]
MaxNewTokens = Annotated[int, typer.Option(**number(int, 1), help="The longest answer, in tokens.")]
Choices = Annotated[
    Several | None,
    typer.Option(
        **read_by(choices_of),
        metavar="A,B,...",
        help="Answer with the likeliest of these texts, separated by commas.",
        show_default="free text",
    ),
]
JobChoices = Annotated[
    Several | None,
    typer.Option(
        **read_by(choices_of),
        metavar="A,B,...",
        help="Answer with the likeliest of these texts, separated by commas; rows of --jobs that have options are "
        "answered with one of their own.",
        show_default="free text",
    ),
]
ChoiceStyle = Annotated[
    str,
    typer.Option(
        "--choice-style",
        **one_of("text", "letter"),
        help="Compare the choices' texts, or write them into the question and compare their letters.",
    ),
]
Calibrate = Annotated[
    bool,
    typer.Option("--calibrate", help="Divide each choice's likelihood by what it would be if the clip were blank."),
]
SubsWish = Annotated[
    str,
    typer.Option(
        "--subs",
        metavar="auto|FILE|off",
        autocompletion=_auto_or_off,
        help="Let the model read what is spoken: auto takes a .srt, .vtt or .ass beside the clip, else a text track.",
    ),
]
ClipCacheUsed = Annotated[
    bool,
    typer.Option(
        "--clip-cache/--no-clip-cache", help="Keep what the model read of a clip on the disk, and go on from there."
    ),
]
ServerWish = Annotated[
    str,
    typer.Option(
        "--server",
        **read_by(server_of),
        metavar="auto|off|URL",
        autocompletion=_auto_or_off,
        envvar="VLLAVA_SERVER",
        help="Ask a server that has the model loaded: one that runs, none, or the one at a URL.",
    ),
]
Keep = Annotated[
    float | None,
    typer.Option(
        "--keep",
        **read_by(positive_time),
        metavar="TIME",
        help="Keep the model for this long after the last question, in a server that is started unless one runs.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Stream = Annotated[
    bool, typer.Option("--stream/--no-stream", help="Print tokens as they come, or the whole answer at the end.")
]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Say on stderr what was chosen, why, and how long it took.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only the answer and errors.")]

BatchWords = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[QUESTION] [PATH]...",
        help="The question, then videos, images and folders of them; - reads paths from stdin. With -Q all words are "
        "paths, with --jobs there are none.",
    ),
]
Questions = Annotated[
    list[str] | None,
    typer.Option("--question", "-Q", metavar="TEXT", help="Ask this of each clip; may be given several times."),
]
Jobs = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Clips, questions and options, as benchmarks have them: .jsonl, .json, .csv, .tsv or .parquet; - is JSONL "
        "from stdin.",
    ),
]
Videos = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="FOLDER",
        help="Find the clips that --jobs names here, or in the folders within; may be given several times.",
        show_default="the folder of the jobs file",
    ),
]
Recursive = Annotated[bool, typer.Option("--recursive", "-r", help="Also look into folders within folders.")]
Null = Annotated[bool, typer.Option("--null", "-0", help="Paths on stdin end with NUL, as find -print0 writes them.")]
Output = Annotated[
    str | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="Keep the rows here; the same command goes on where it stopped. With --ray it is a folder, or a URL.",
        show_default="stdout",
    ),
]
TableFormat = Annotated[
    Literal["jsonl", "csv", "tsv", "srt", "vtt", "ffmeta", "parquet"] | None,
    typer.Option(
        "--format",
        "-f",
        **one_of("jsonl", "csv", "tsv", "srt", "vtt", "ffmeta", "parquet"),
        help="The format of the rows, or of cues; with --ray, jsonl or parquet.",
        show_default="by FILE's ending",
    ),
]
CueFile = Annotated[
    str | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="With --every: write the windows' texts here; the same command goes on where it stopped.",
        show_default="stdout",
    ),
]
CueFormat = Annotated[
    Literal["srt", "vtt", "ffmeta", "csv", "tsv", "jsonl"] | None,
    typer.Option(
        "--format",
        "-f",
        **one_of("srt", "vtt", "ffmeta", "csv", "tsv", "jsonl"),
        help="With --every: subtitles, chapters for FFmpeg, or rows.",
        show_default="by FILE's ending",
    ),
]
Beside = Annotated[
    bool,
    typer.Option("--beside", help="Write a file beside each clip, clip.srt for clip.mp4; --format names another kind."),
]
Merge = Annotated[
    bool,
    typer.Option("--merge/--no-merge", help="Make one cue of neighbours with the same text.", show_default="merge"),
]
SummaryQuestion = Annotated[
    str | None,
    typer.Option(
        "--summary",
        metavar="TEXT",
        help="With --every: ask this at the end, about the windows' texts alone.",
        show_default="none",
    ),
]
Fields = Annotated[
    str | None,
    typer.Option(
        metavar="NAMES",
        autocompletion=partly_completed(row_fields),
        help="Only these fields of each row, separated by commas.",
        show_default="all",
    ),
]
SafeCells = Annotated[
    bool, typer.Option("--safe-cells", help="Put an apostrophe before table texts that begin with = + - or @.")
]
BatchSize = Annotated[
    str,
    typer.Option(metavar="auto|N", help="How many questions are answered at once; auto decides by the free memory."),
]
Decoders = Annotated[
    int | None,
    typer.Option(**number(int, 1), help="How many processes decode clips.", show_default="one a core, 8 at most"),
]
RetryErrors = Annotated[bool, typer.Option("--retry-errors", help="Retry the jobs whose row in FILE is an error.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace FILE, and the files beside clips.")]
Prune = Annotated[bool, typer.Option("--prune", help="Drop the rows in FILE whose clips have changed since.")]
FailFast = Annotated[bool, typer.Option("--fail-fast", help="Begin no other job after the first error.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Read clips' headers, say how much there is to do, and stop.")]
ShowStats = Annotated[bool, typer.Option("--stats", help="Say at the end, on stderr, where the time went.")]
ShardWish = Annotated[
    str | None,
    typer.Option(metavar="K/N", help="Only the Kth of N parts, for job arrays.", show_default="all"),
]
Gpus = Annotated[
    str | None,
    typer.Option(metavar="all|0,1,...", help="One process on each of these GPUs.", show_default="one process"),
]


Ray = Annotated[
    str | None,
    typer.Option(
        metavar="[ADDRESS]",
        help="Distribute the jobs with Ray: on this machine, or on the cluster at ray://HOST:10001, HOST:6379 or auto.",
    ),
]
Actors = Annotated[
    str | None,
    typer.Option(metavar="auto|N", help="With --ray: how many engines.", show_default="auto, by what the cluster has"),
]
GpusPerActor = Annotated[
    float | None,
    typer.Option(**number(float), help="With --ray: GPUs per engine; at 0.5, two share one.", show_default="1 or none"),
]
Hash = Annotated[
    bool,
    typer.Option("--hash", help="Add the SHA-256 of its clip to each row: each file is read whole."),
]
Allow = Annotated[
    list[str] | None,
    typer.Option(
        metavar="LIST",
        autocompletion=partly_completed(lambda: ("s3", "gs", "https", "loopback", "link-local")),
        help="With --ray: media may come from URLs of these schemes, s3,gs,https; from loopback and link-local "
        "addresses only if these are named, too.",
        show_default="none",
    ),
]


BenchWords = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[CLIP] [QUESTION]",
        help="The clip and the question to measure with. Without a clip, one of the demo's is taken.",
    ),
]
Precisions = Annotated[
    Several | None,
    typer.Option(
        **several(one_of(*PRECISIONS)),
        help="auto, fp16, bf16, fp32, 8bit, 4bit, separated by commas: each is measured.",
        show_default="auto",
    ),
]
Attentions = Annotated[
    Several | None,
    typer.Option(
        **several(one_of(*ATTENTIONS)),
        help="auto, flash, sdpa, eager, separated by commas: each is measured, with each precision.",
        show_default="auto",
    ),
]
RandomWeights = Annotated[
    str | None,
    typer.Option(
        **one_of("7b", "1b", "tiny"),
        help="Real shapes with random weights instead of --model: nothing is fetched.",
        show_default="the model's own",
    ),
]
Short = Annotated[
    bool, typer.Option("--short", help="Measure one answer of this tool only: for a slow machine.", show_default=False)
]
Repeat = Annotated[int, typer.Option(**number(int, 1, 1000), help="How often each thing is measured.")]
Batches = Annotated[
    Several | None,
    typer.Option(
        **several(number(int, 1, 9999)),
        help="How many questions at once, separated by commas.",
        show_default="1,4,16",
    ),
]
Check = Annotated[bool, typer.Option("--check", help="Also compare tokens and logits with those of generate.")]
Save = Annotated[Path | None, typer.Option(metavar="FILE", help="Keep the figures here, as --json prints them.")]
Compare = Annotated[Path | None, typer.Option(metavar="FILE", help="Say what changed since FILE was saved.")]
Plot = Annotated[Path | None, typer.Option(metavar="FILE.png", help="Draw the figures as a chart.")]


def rows_of(batch_size: str) -> int | None:
    """Reads --batch-size: "auto" → None, "16" → 16. Errors: UsageError."""
    if batch_size == "auto":
        return None
    if not batch_size.isascii() or not batch_size.isdigit() or int(batch_size) < 1:
        raise UsageError(f"--batch-size {batch_size} is not a number of questions: give auto, or a number from 1 on.")
    return int(batch_size)


def agreeing_of(
    *,
    agree: Annotated[
        int | None,
        typer.Option(
            **number(int, 2, MOST_SAMPLES),
            help="Sample a clip N times, at other frames each time, and answer what most samples agree on.",
            show_default="once",
        ),
    ] = None,
    min_agree: Annotated[
        float | None,
        typer.Option(
            **number(float, 0, 1, metavar="SHARE"),
            help="With --agree: give no answer if a smaller share of the samples agrees; 0.6 is three of five.",
            show_default="0",
        ),
    ] = None,
) -> Agreeing | None:
    """Makes the agreeing of these options; None samples clips once. Errors: UsageError."""
    if agree is None and min_agree is not None:
        raise UsageError("--min-agree is about the samples of --agree: add --agree 5, or leave it out.")
    return Agreeing(samples=agree, least_share=min_agree or 0.0) if agree else None


def checked(agreeing: Agreeing | None, framing: Framing, sampling: Sampling) -> Agreeing | None:
    """Returns the agreeing. Errors: UsageError if there is one, and the other options don't suit it."""
    if agreeing and framing.at_s:
        raise UsageError("--agree moves the frames, and --at says where they are. Leave one of them out.")
    if agreeing and framing.pick != "uniform":
        raise UsageError(
            f"--agree moves evenly spread frames, and --pick {framing.pick} chooses others. Leave one out."
        )
    if agreeing and sampling.temperature:
        raise UsageError("--agree answers greedily, so that only the frames differ. Leave --temperature out.")
    return agreeing


def subs_of(wish: str, clips: int = 1) -> Subs | None:
    """Reads --subs: "off" → None, "auto" → "auto", "talk.srt" → that file. Errors: UsageError, MediaError."""
    if wish == "off":
        return None
    if not wish:
        raise UsageError("--subs is empty: give auto, a file or off.")
    if clips > 1:
        raise UsageError(
            f"--subs is about one clip, and {clips} are named: ask about each alone, or with vllava batch."
        )
    if wish == "auto":
        return "auto"
    from vllava_cli.media.file_check import check_file

    check_file(Path(wish))
    return Path(wish)


def wishes_of(
    *,
    model: Model = DEFAULT_MODEL,
    revision: Revision = None,
    adapter: AdapterName = None,
    device: Device = None,
    precision: Annotated[
        str,
        typer.Option(**one_of(*PRECISIONS), help="The precision of the weights; auto decides by the free memory."),
    ] = "auto",
    attention: Annotated[
        str,
        typer.Option(
            **one_of(*ATTENTIONS),
            help="The attention kernel; flash needs flash-attn and a GPU of capability 8 or more.",
        ),
    ] = "auto",
) -> Wishes:
    """Makes the wishes of these options. Errors: UsageError."""
    named = {"model": model, "revision": revision, "adapter": adapter, "device": device}
    if name := next((name for name, value in named.items() if value == ""), None):
        raise UsageError(f"--{name} is empty: name one, or leave the option out.")
    if revision is not None:
        from vllava_cli.engine.hub import is_local

        if is_local(model):
            raise UsageError(f"--model {model} is not the hub's, so it has no --revision. Leave one of them out.")
    names = {"auto": None, "flash": "flash_attention_2"}
    return Wishes(
        model=model,
        revision=revision,
        adapter=adapter,
        device=None if device == "auto" else device,
        precision=cast(Precision | None, None if precision == "auto" else precision),
        attention=cast(Attention | None, names.get(attention, attention)),
    )


def choosing(
    sampling: Sampling, choices: Several | None, *, is_calibrated: bool, may_have_others: bool = False
) -> Sampling:
    """Adds --choices and --calibrate to the sampling; jobs may have other choices. Errors: UsageError."""
    if is_calibrated and not (choices or may_have_others):
        raise UsageError("--calibrate needs --choices: add --choices yes,no, or leave it out.")
    return replace(sampling, choices=tuple(choices or ()), is_calibrated=is_calibrated)


def framing(
    *,
    fit: FitWish = "crop",
    background: Background = WHITE,
    as_stored: AsStored = False,
    start: Start = None,
    end: End = None,
    at: At = None,
    pick: PickWish = "uniform",
) -> Framing:
    """Makes the framing of these options. Errors: UsageError."""
    return framing_of(
        start,
        end,
        at_s=at,
        fit=fit,
        background=background,
        is_as_stored=as_stored,
        pick=pick,
        most=FRAMES_PER_CLIP,
    )


def limits_of(
    *,
    decode_timeout: Annotated[
        float | None,
        typer.Option(
            **read_by(positive_time),
            metavar="TIME",
            help="The longest that decoding one clip may take.",
            show_default="300",
        ),
    ] = None,
    decode_memory: Annotated[
        int | None,
        typer.Option(
            **read_by(size_bytes), metavar="SIZE", help="The most memory that decoding may take.", show_default="4G"
        ),
    ] = None,
) -> DecodeLimits:
    usual = DecodeLimits()
    return DecodeLimits(timeout_s=decode_timeout or usual.timeout_s, memory_bytes=decode_memory or usual.memory_bytes)


def sampling_of(
    *,
    max_new_tokens: MaxNewTokens = 512,
    temperature: Annotated[
        float,
        typer.Option(
            **number(float, 0, 100, metavar="T"), help="0 always takes the likeliest token; higher is more varied."
        ),
    ] = 0.0,
    top_p: Annotated[
        float,
        typer.Option(
            **number(float, 0, 1, metavar="P"), help="Sample only from the likeliest tokens that add up to P."
        ),
    ] = 1.0,
    seed: Annotated[
        int | None,
        typer.Option(
            **number(int, 0, MOST_SEED), help="Makes sampling repeatable.", show_default="a new one each time"
        ),
    ] = None,
    guard: Annotated[bool, typer.Option("--guard/--no-guard", help="Stop an answer that repeats itself.")] = True,
) -> Sampling:
    return Sampling(max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed, has_guard=guard)


@dataclass(frozen=True)
class Made:
    """Marks a command's parameter whose value is made from several options, which are the parameters of `by`."""

    by: Callable[..., Any]


Overlap = Annotated[
    float | None,
    typer.Option(
        **read_by(time_of),
        metavar="TIME",
        help="With --every: how much of a window the one before it has, too.",
        show_default="0",
    ),
]
Scenes = Annotated[bool, typer.Option("--scenes", help="Ask about each scene, from cut to cut.")]
AtChapters = Annotated[bool, typer.Option("--at-chapters", help="Ask about each chapter that the file names.")]


def windowing_of(
    *,
    every: Annotated[
        float | None,
        typer.Option(
            **read_by(positive_time),
            metavar="TIME",
            help="Ask about each stretch of this length, with eight frames of its own: seconds or h:m:s, 30s, 5m.",
            show_default="the clip as a whole",
        ),
    ] = None,
    overlap: Overlap = None,
    scenes: Scenes = False,
    at_chapters: AtChapters = False,
) -> Windowing | None:
    """Makes the windowing of these options; None asks about clips as a whole. Errors: UsageError."""
    ways = (("--every", every), ("--scenes", scenes), ("--at-chapters", at_chapters))
    named = [name for name, value in ways if value]
    if len(named) > 1:
        raise UsageError(f"{' and '.join(named)} each divide the clip in their own way. Give one of them.")
    if overlap and not every:
        raise UsageError("--overlap is about the windows of --every: add --every 30s, or leave it out.")
    if every and overlap and overlap >= every:
        raise UsageError(f"--overlap {overlap:g} s is as long as a window of --every {every:g} s. Give a shorter one.")
    if not named:
        return None
    by: Boundary = "scenes" if scenes else "chapters" if at_chapters else "every"
    return Windowing(by=by, every_s=every or 0.0, overlap_s=overlap or 0.0)


def windowing_with(windowing: Windowing | None, framing: Framing) -> Windowing | None:
    """Returns the windowing. Errors: UsageError for a framing that names single frames of the clip."""
    if windowing and framing.at_s:
        name = WINDOW_FLAGS[windowing.by]
        raise UsageError(f"--at can't be combined with {name}, whose windows have frames of their own. Leave one out.")
    return windowing


WishesMade = Annotated[Wishes, Made(wishes_of)]
AgreeingMade = Annotated[Agreeing | None, Made(agreeing_of)]
WindowingMade = Annotated[Windowing | None, Made(windowing_of)]
FramingMade = Annotated[Framing, Made(framing)]
LimitsMade = Annotated[DecodeLimits, Made(limits_of)]
SamplingMade = Annotated[Sampling, Made(sampling_of)]


def with_options(command: Callable[..., int]) -> Callable[..., int]:
    """Returns the command for typer: the options that `Made` names replace the parameter that is made from them."""
    signature = inspect.signature(command, eval_str=True)
    makers: dict[str, Callable[..., Any]] = {}
    options: list[inspect.Parameter] = []
    for parameter in signature.parameters.values():
        marks = [each for each in getattr(parameter.annotation, "__metadata__", ()) if isinstance(each, Made)]
        makers.update((parameter.name, mark.by) for mark in marks)
        options += inspect.signature(marks[0].by, eval_str=True).parameters.values() if marks else [parameter]

    def run(**values: Any) -> int:
        for name, make in makers.items():
            values[name] = make(**{each: values.pop(each) for each in inspect.signature(make).parameters})
        return command(**values)

    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__signature__ = signature.replace(parameters=options)  # type: ignore[attr-defined]
    return run
