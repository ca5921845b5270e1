"""The command line: parses argv, builds the nouns, calls one command.

One error door turns every failure into an exit code.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated, Literal, cast

import typer

from vllava_cli import __version__
from vllava_cli.errors import UsageError, VllavaError
from vllava_cli.nouns import DEFAULT_MODEL, Attention, Fit, Framing, Precision, Sampling, Wishes
from vllava_cli.screen import Screen, discard

OUR_BUG = 3
INTERRUPTED = 130

app = typer.Typer(
    help="Answers questions about videos with Video-LLaVA.",
    epilog="Man pages: man vllava, man vllava-ask. Exit codes: 0 done, 1 failed, 2 usage, 3 our bug, 130 interrupted.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        Screen().answer(f"vllava {__version__}\n")
        raise typer.Exit


def _time(text: str) -> float:
    """Seconds from "90", "1:30" or "0:01:30.5"."""
    parts = text.split(":")
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        numbers = []
    if not 1 <= len(numbers) <= 3 or any(not 0 <= number < float("inf") for number in numbers):
        raise typer.BadParameter(f"{text!r} is not a time: give seconds (90.5) or h:m:s (0:01:30.5)")
    return sum(number * 60.0**power for power, number in enumerate(reversed(numbers)))


Words = Annotated[
    list[str],
    typer.Argument(
        metavar="CLIP... [QUESTION]",
        help="Videos or images, then the question. With - or without a question, it is read from stdin.",
        show_default=False,
    ),
]
Model = Annotated[
    str,
    typer.Option(
        "--model", "-m", envvar="VLLAVA_MODEL", metavar="ID|FOLDER|demo", help="A hub id, a local folder, or demo."
    ),
]
Revision = Annotated[
    str | None, typer.Option(metavar="REV", help="The hub's branch, tag or commit.", show_default="main")
]
Device = Annotated[
    str | None, typer.Option(metavar="NAME", help="cpu, cuda, cuda:1, mps or xpu.", show_default="the one with room")
]
PrecisionWish = Annotated[
    Literal["auto", "fp16", "bf16", "fp32", "8bit", "4bit"],
    typer.Option(
        "--precision",
        metavar="auto|fp16|bf16|fp32|8bit|4bit",
        help="How weights are held; auto decides by the memory found.",
    ),
]
AttentionWish = Annotated[
    Literal["auto", "flash", "sdpa", "eager"],
    typer.Option(
        "--attention",
        metavar="auto|flash|sdpa|eager",
        help="The attention kernel; flash needs flash-attn and a GPU of capability 8 or more.",
    ),
]
FitWish = Annotated[
    Literal["crop", "pad", "squash"],
    typer.Option(
        "--fit",
        metavar="crop|pad|squash",
        help="How a frame becomes square: crop cuts the sides off, pad adds bars, squash distorts.",
    ),
]
Start = Annotated[
    float | None,
    typer.Option(
        parser=_time, metavar="TIME", help="Look from here on: seconds or h:m:s.", show_default="the beginning"
    ),
]
End = Annotated[
    float | None,
    typer.Option(parser=_time, metavar="TIME", help="Look up to here: seconds or h:m:s.", show_default="the end"),
]
MaxNewTokens = Annotated[int, typer.Option(min=1, metavar="N", help="The longest answer, in tokens.")]
Temperature = Annotated[
    float,
    typer.Option(min=0.0, max=100.0, metavar="T", help="0 always takes the likeliest token; higher is more varied."),
]
TopP = Annotated[
    float, typer.Option(min=0.0, max=1.0, metavar="P", help="Sample only from the likeliest tokens that add up to P.")
]
Seed = Annotated[
    int | None, typer.Option(min=0, metavar="N", help="Makes sampling repeatable.", show_default="a new one each time")
]
Guard = Annotated[bool, typer.Option("--guard/--no-guard", help="Stop an answer that repeats itself.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Stream = Annotated[
    bool, typer.Option("--stream/--no-stream", help="Print tokens as they come, or the answer at its end.")
]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Say on stderr what was chosen, why, and how long it took.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only the answer and errors.")]


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", "-V", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    pass


@app.command(no_args_is_help=True)
def ask(
    words: Words,
    model: Model = DEFAULT_MODEL,
    revision: Revision = None,
    device: Device = None,
    precision: PrecisionWish = "auto",
    attention: AttentionWish = "auto",
    fit: FitWish = "crop",
    start: Start = None,
    end: End = None,
    max_new_tokens: MaxNewTokens = 512,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    seed: Seed = None,
    guard: Guard = True,
    json: Json = False,
    stream: Stream = True,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Ask one question about videos or images and stream the answer."""
    from vllava_cli.commands import ask as command
    from vllava_cli.commands.words import question_of, split_words

    clips, question = split_words(words)
    request = command.Ask(
        clips=clips,
        question=question_of(question, sys.stdin),
        wishes=_wishes(model, revision, device, precision, attention),
        framing=_framing(start, end, fit),
        sampling=Sampling(
            max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed, has_guard=guard
        ),
        output="json" if json else "stream" if stream else "whole",
    )
    raise typer.Exit(command.run(request, Screen(is_quiet=quiet, is_verbose=verbose)))


@app.command()
def doctor(
    model: Model = DEFAULT_MODEL,
    revision: Revision = None,
    device: Device = None,
    precision: PrecisionWish = "auto",
    attention: AttentionWish = "auto",
    json: Json = False,
) -> None:
    """Show this machine, how the model would be loaded and why, and what would make it faster."""
    from vllava_cli.commands import doctor as command

    wishes = _wishes(model, revision, device, precision, attention)
    raise typer.Exit(command.run(wishes, Screen(), as_json=json))


@app.command()
def demo(
    paths: Annotated[bool, typer.Option("--paths", help="Print only the clips' paths, a line each.")] = False,
) -> None:
    """List what the built-in demo model can be asked, and its clips."""
    from vllava_cli.commands import demo as command

    raise typer.Exit(command.run(Screen(), paths_only=paths))


def _wishes(model: str, revision: str | None, device: str | None, precision: str, attention: str) -> Wishes:
    names = {"auto": None, "flash": "flash_attention_2"}
    return Wishes(
        model=model,
        revision=revision,
        device=None if device == "auto" else device,
        precision=cast(Precision | None, None if precision == "auto" else precision),
        attention=cast(Attention | None, names.get(attention, attention)),
    )


def _framing(start_s: float | None, end_s: float | None, fit: Fit) -> Framing:
    if start_s is not None and end_s is not None and start_s >= end_s:
        raise UsageError(f"The part from {start_s:g} s to {end_s:g} s is empty: --end must come after --start.")
    return Framing(start_s=start_s, end_s=end_s, fit=fit)


def main() -> int:
    """Runs the command line and returns the exit code; prints every failure, once, on stderr."""
    os.environ.setdefault("TQDM_LEAVE", "")  # the libraries' progress bars go away when they are done
    try:
        app(prog_name="vllava")
    except SystemExit as exc:
        return _flushed(exc.code if isinstance(exc.code, int) else 0)
    except VllavaError as exc:
        if str(exc) and exc.exit_code:
            Screen().error(str(exc))
        return exc.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as exc:
        discard(sys.stdout)
        Screen().error(f"{exc.strerror or exc}: {exc.filename or 'stdout'}.")
        return 1
    except Exception:
        return _our_bug()
    return 0


def _flushed(code: int) -> int:
    """The code, once what was printed has really gone out."""
    try:
        sys.stdout.flush()
    except OSError as exc:
        discard(sys.stdout)
        if isinstance(exc, BrokenPipeError):
            return code
        Screen().error(f"The output can't be written to stdout: {exc.strerror or exc}.")
        return 1
    return code


def _our_bug() -> int:
    import traceback

    traceback.print_exc()
    Screen().error("This is a bug in vllava: please report it with the lines above.")
    return OUR_BUG
