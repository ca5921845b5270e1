"""The command line: parses argv, builds the nouns, calls one command.

One error door turns every failure into an exit code.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from vllava_cli import __version__
from vllava_cli.errors import UsageError, VllavaError
from vllava_cli.nouns import DEFAULT_MODEL, FRAMES_PER_CLIP, Sampling
from vllava_cli.options import (
    Actors,
    AdapterName,
    Allow,
    At,
    Attentions,
    AttentionWish,
    Batches,
    BatchSize,
    BatchWords,
    BenchWords,
    Calibrate,
    Check,
    Choices,
    Clips,
    Compare,
    DecodeMemory,
    Decoders,
    DecodeTimeout,
    Device,
    DryRun,
    End,
    FailFast,
    Fields,
    FitWish,
    FramesOnly,
    Gpus,
    GpusPerActor,
    Guard,
    Hash,
    Jobs,
    Json,
    JsonLines,
    MaxNewTokens,
    Model,
    Null,
    Output,
    Overwrite,
    Plot,
    Precisions,
    PrecisionWish,
    Prune,
    Questions,
    Quiet,
    RandomWeights,
    Ray,
    Recursive,
    Repeat,
    RetryErrors,
    Revision,
    Save,
    Seed,
    ShardWish,
    ShowStats,
    Start,
    Stream,
    TableFormat,
    Temperature,
    TopP,
    Verbose,
    Videos,
    Words,
    choosing,
    limits_of,
    rows_of,
    wishes_of,
)
from vllava_cli.screen import Screen, discard
from vllava_cli.times import framing_of

OUR_BUG = 3
INTERRUPTED = 130
MOST_TIMES = 64

app = typer.Typer(
    help="Answers questions about videos with Video-LLaVA.",
    epilog="Man pages: man vllava, man vllava-ask. Exit codes: 0 done, 1 failed, 2 usage, 3 our bug, 130 interrupted.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


class _Command(TyperCommand):
    """Shows arguments as they are named here; typer from 0.29 on adds brackets, dots and types."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        names = [each.metavar or "" for each in self.get_params(ctx) if each.param_type_name == "argument"]
        return ["[OPTIONS]", *names]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        rows: dict[str, list[tuple[str, str]]] = {"argument": [], "option": []}
        for each in self.get_params(ctx):
            if record := each.get_help_record(ctx):
                is_argument = each.param_type_name == "argument"
                rows[each.param_type_name].append((each.metavar or "", record[1]) if is_argument else record)
        for kind, found in rows.items():
            if found:
                with formatter.section(f"{kind.capitalize()}s"):
                    formatter.write_dl(found)


def _print_version(wanted: bool) -> None:
    if wanted:
        Screen().answer(f"vllava {__version__}\n")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", "-V", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    pass


@app.command(cls=_Command, no_args_is_help=True)
def ask(
    words: Words,
    model: Model = DEFAULT_MODEL,
    revision: Revision = None,
    adapter: AdapterName = None,
    device: Device = None,
    precision: PrecisionWish = "auto",
    attention: AttentionWish = "auto",
    fit: FitWish = "crop",
    start: Start = None,
    end: End = None,
    at: At = None,
    decode_timeout: DecodeTimeout = None,
    decode_memory: DecodeMemory = None,
    max_new_tokens: MaxNewTokens = 512,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    seed: Seed = None,
    guard: Guard = True,
    choices: Choices = None,
    calibrate: Calibrate = False,
    json: Json = False,
    stream: Stream = True,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Ask one question about videos or images and stream the answer."""
    from vllava_cli.commands import ask as command
    from vllava_cli.commands.words import check_stdin, question_of, split_words

    sampling = Sampling(max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed, has_guard=guard)
    clips, question = split_words(words)
    check_stdin(clips, sys.stdin)
    request = command.Ask(
        clips=clips,
        question=question_of(question, sys.stdin),
        wishes=wishes_of(model, revision, device, precision, attention, adapter=adapter),
        framing=framing_of(start, end, at_s=at, fit=fit, most=FRAMES_PER_CLIP),
        sampling=choosing(sampling, choices, is_calibrated=calibrate),
        limits=limits_of(decode_timeout, decode_memory),
        output="json" if json else "stream" if stream else "whole",
    )
    raise typer.Exit(command.run(request, Screen(is_quiet=quiet, is_verbose=verbose)))


@app.command(cls=_Command)
def chat(
    context: typer.Context,
    clips: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[CLIP]...", help="Videos, images or folders of pictures to talk about.", show_default=False
        ),
    ] = None,
    continue_: Annotated[bool, typer.Option("--continue", "-c", help="Go on with the last conversation.")] = False,
    session: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Keep the conversation in this file, and go on with the one that is in it.",
            show_default="a new file in the state folder",
        ),
    ] = None,
    model: Model = DEFAULT_MODEL,
    revision: Revision = None,
    adapter: AdapterName = None,
    device: Device = None,
    precision: PrecisionWish = "auto",
    attention: AttentionWish = "auto",
    fit: FitWish = "crop",
    start: Start = None,
    end: End = None,
    at: At = None,
    decode_timeout: DecodeTimeout = None,
    decode_memory: DecodeMemory = None,
    max_new_tokens: MaxNewTokens = 512,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    seed: Seed = None,
    guard: Guard = True,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object for each answer, a line each.")] = False,
    stream: Stream = True,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Talk about videos or images: each answer knows what was asked before."""
    from vllava_cli.commands.chat import run as command
    from vllava_cli.commands.words import chat_clips

    if continue_ and session:
        raise UsageError("--session names a session, --continue takes the last one. Give one of them.")
    request = command.Chat(
        clips=chat_clips(clips or []),
        wishes=wishes_of(model, revision, device, precision, attention, adapter=adapter),
        is_model_named=_is_given(context, "model"),
        framing=framing_of(start, end, at_s=at, fit=fit, most=FRAMES_PER_CLIP),
        sampling=Sampling(
            max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed, has_guard=guard
        ),
        limits=limits_of(decode_timeout, decode_memory),
        output="json" if json else "stream" if stream else "whole",
        is_continued=continue_,
        session=session,
    )
    raise typer.Exit(command.run(request, Screen(is_quiet=quiet, is_verbose=verbose)))


@app.command(cls=_Command, no_args_is_help=True)
def batch(
    words: BatchWords = None,
    question: Questions = None,
    jobs: Jobs = None,
    videos: Videos = None,
    recursive: Recursive = False,
    null: Null = False,
    output: Output = None,
    format: TableFormat = None,
    fields: Fields = None,
    retry_errors: RetryErrors = False,
    overwrite: Overwrite = False,
    prune: Prune = False,
    fail_fast: FailFast = False,
    dry_run: DryRun = False,
    choices: Choices = None,
    calibrate: Calibrate = False,
    shard: ShardWish = None,
    gpus: Gpus = None,
    ray: Ray = None,
    actors: Actors = None,
    gpus_per_actor: GpusPerActor = None,
    allow: Allow = None,
    batch_size: BatchSize = "auto",
    decoders: Decoders = None,
    model: Model = DEFAULT_MODEL,
    revision: Revision = None,
    adapter: AdapterName = None,
    device: Device = None,
    precision: PrecisionWish = "auto",
    attention: AttentionWish = "auto",
    fit: FitWish = "crop",
    start: Start = None,
    end: End = None,
    at: At = None,
    decode_timeout: DecodeTimeout = None,
    decode_memory: DecodeMemory = None,
    max_new_tokens: MaxNewTokens = 512,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    seed: Seed = None,
    guard: Guard = True,
    hash: Hash = False,
    stats: ShowStats = False,
    verbose: Verbose = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Only rows and errors.")] = False,
) -> None:
    """Ask questions about many clips: a row of JSON for each, nothing lost, nothing done twice."""
    from vllava_cli.cluster.arguments import Words, cluster_of
    from vllava_cli.commands.batch.arguments import destination_of, devices_of, inputs_of, shard_of
    from vllava_cli.commands.batch.request import Batch

    about_ray = Words(
        ray=ray,
        actors=actors,
        gpus_per_actor=gpus_per_actor,
        allow=tuple(allow or ()),
        output=output,
        format=format,
    )
    request = Batch(
        inputs=inputs_of(words or [], question or [], jobs, videos, is_recursive=recursive, is_null=null),
        wishes=wishes_of(model, revision, device, precision, attention, adapter=adapter),
        framing=framing_of(start, end, at_s=at, fit=fit, most=FRAMES_PER_CLIP),
        sampling=choosing(
            Sampling(max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed, has_guard=guard),
            choices,
            is_calibrated=calibrate,
        ),
        limits=limits_of(decode_timeout, decode_memory),
        destination=destination_of(
            output,
            format if format != "parquet" else None,
            fields,
            is_retrying=retry_errors,
            is_overwriting=overwrite,
            is_pruning=prune,
        ),
        most_rows=rows_of(batch_size),
        decoders=decoders,
        devices=devices_of(gpus, device),
        shard=shard_of(shard),
        is_failing_fast=fail_fast,
        is_dry=dry_run,
        has_stats=stats,
        is_hashing=hash,
    )
    screen = Screen(is_quiet=quiet, is_verbose=verbose)
    if ray is None:
        from vllava_cli.commands.batch import run as command

        about_ray.check_absent()
        raise typer.Exit(command.run(request, screen))
    from vllava_cli.cluster import run as elsewhere

    raise typer.Exit(elsewhere.run(cluster_of(request, about_ray, is_listing_fields=fields is not None), screen))


@app.command(cls=_Command, no_args_is_help=True)
def probe(
    clips: Clips,
    full: Annotated[bool, typer.Option("--full", help="Decode every frame, to find all damage.")] = False,
    decode_timeout: DecodeTimeout = None,
    decode_memory: DecodeMemory = None,
    json: JsonLines = False,
    quiet: Quiet = False,
) -> None:
    """Say what clips are, how their frames will be reached and why, and what is wrong with them."""
    from vllava_cli.commands import probe as command
    from vllava_cli.commands.words import check_stdin, clip_paths

    files = clip_paths(clips)
    check_stdin(files, sys.stdin)
    request = command.Probe(files=files, is_full=full, limits=limits_of(decode_timeout, decode_memory), is_json=json)
    raise typer.Exit(command.run(request, Screen(is_quiet=quiet)))


@app.command(cls=_Command, no_args_is_help=True)
def frames(
    clips: Clips,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="PATH",
            help="A file, a folder, or - for stdout.",
            show_default="NAME-frames.png in the current folder; nothing with --show",
        ),
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Draw the sheet in the terminal.")] = False,
    model: Model = DEFAULT_MODEL,
    fit: FitWish = "crop",
    whole: Annotated[bool, typer.Option("--whole", help="Draw whole frames, not what the model sees of them.")] = False,
    each: Annotated[
        bool, typer.Option("--each", help="Write each frame, whole and unscaled, to a file of its own.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are already there.")] = False,
    start: Start = None,
    end: End = None,
    at: At = None,
    decode_timeout: DecodeTimeout = None,
    decode_memory: DecodeMemory = None,
    json: JsonLines = False,
    quiet: Quiet = False,
) -> None:
    """Draw the frames of clips as the model sees them, as contact sheets in files or in the terminal."""
    from vllava_cli.commands import frames as command
    from vllava_cli.commands.words import check_stdin, clip_paths

    paths = clip_paths(clips)
    check_stdin(paths, sys.stdin)
    request = command.Sheets(
        clips=paths,
        framing=framing_of(start, end, at_s=at, fit=fit, most=MOST_TIMES),
        model=model,
        output=output,
        is_whole=whole,
        is_each=each,
        is_shown=show,
        is_forced=force,
        limits=limits_of(decode_timeout, decode_memory),
        is_json=json,
    )
    raise typer.Exit(command.run(request, Screen(is_quiet=quiet)))


@app.command(cls=_Command, no_args_is_help=True)
def merge(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The file to write, as JSON lines.", show_default=False)],
    shards: Annotated[
        list[str],
        typer.Argument(
            metavar="SHARD...",
            help="What vllava batch --shard wrote, the files of its -o; or what --ray wrote, its folder or URL.",
            show_default=False,
        ),
    ],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT if it is already there.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only errors.")] = False,
) -> None:
    """Join the outputs of a batch's shards into one, and make sure that every job is in it once."""
    from vllava_cli.commands import merge as command

    request = command.Merge(out=out, shards=tuple(shards), is_overwriting=overwrite)
    raise typer.Exit(command.run(request, Screen(is_quiet=quiet)))


@app.command(cls=_Command, no_args_is_help=True)
def replay(
    rows: Annotated[
        str,
        typer.Argument(
            metavar="ROWS", help="What ask --json, chat --json or batch wrote; - reads stdin.", show_default=False
        ),
    ],
    id: Annotated[
        list[str] | None,
        typer.Option(metavar="X", help="Only the row of this id; may be given several times.", show_default="all"),
    ] = None,
    decode_timeout: DecodeTimeout = None,
    decode_memory: DecodeMemory = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object for each row, a line each.")] = False,
    verbose: Verbose = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only what became of each row, and errors.")] = False,
) -> None:
    """Make the answers of rows again, and say which are the same."""
    from vllava_cli.commands.replay import run as command

    request = command.Replay(
        rows=rows, ids=tuple(id or ()), limits=limits_of(decode_timeout, decode_memory), is_json=json
    )
    raise typer.Exit(command.run(request, Screen(is_quiet=quiet, is_verbose=verbose)))


@app.command(cls=_Command)
def bench(
    context: typer.Context,
    words: BenchWords = None,
    model: Model = DEFAULT_MODEL,
    revision: Revision = None,
    adapter: AdapterName = None,
    random_weights: RandomWeights = None,
    device: Device = None,
    precision: Precisions = None,
    attention: Attentions = None,
    batch: Batches = None,
    max_new_tokens: MaxNewTokens = 64,
    repeat: Repeat = 5,
    frames_only: FramesOnly = False,
    check: Check = False,
    save: Save = None,
    compare: Compare = None,
    plot: Plot = None,
    decode_timeout: DecodeTimeout = None,
    decode_memory: DecodeMemory = None,
    json: Json = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Measure how fast this tool is here, beside the documentation's snippet and this machine's limits."""
    from vllava_cli.commands.bench import arguments
    from vllava_cli.commands.bench.request import Bench, Configuration

    if random_weights and (adapter or _is_given(context, "model")):
        raise UsageError("--random-weights measures no --model and no --adapter. Give one of them.")
    clip, question = arguments.words_of(words or [])
    request = Bench(
        clip=clip or arguments.OUR_CLIP,
        is_clip_ours=clip is None,
        question=question,
        model=model,
        revision=revision,
        adapter=adapter,
        random=random_weights,
        configurations=tuple(
            Configuration(
                precision=held,
                attention=kernel,
                wishes=wishes_of(model, revision, device, held, kernel, adapter=adapter),
            )
            for held in precision or ("auto",)
            for kernel in attention or ("auto",)
        ),
        new_tokens=max_new_tokens,
        repeat=repeat,
        batches=batch or (1, 4, 16),
        is_frames_only=frames_only,
        is_checked=check,
        limits=limits_of(decode_timeout, decode_memory),
        outputs=arguments.outputs_of(save, compare, plot, is_json=json),
    )
    arguments.check(request)
    from vllava_cli.commands.bench import run as command

    raise typer.Exit(command.run(request, Screen(is_quiet=quiet, is_verbose=verbose)))


@app.command(cls=_Command)
def doctor(
    model: Model = DEFAULT_MODEL,
    revision: Revision = None,
    adapter: AdapterName = None,
    device: Device = None,
    precision: PrecisionWish = "auto",
    attention: AttentionWish = "auto",
    json: Json = False,
) -> None:
    """Show this machine, how the model would be loaded and why, and what would make it faster."""
    from vllava_cli.commands import doctor as command

    wishes = wishes_of(model, revision, device, precision, attention, adapter=adapter)
    raise typer.Exit(command.run(wishes, Screen(), as_json=json))


@app.command(cls=_Command)
def demo(
    paths: Annotated[bool, typer.Option("--paths", help="Print only the clips' paths, a line each.")] = False,
) -> None:
    """List what the built-in demo model can be asked, and its clips."""
    from vllava_cli.commands import demo as command

    raise typer.Exit(command.run(Screen(), paths_only=paths))


def _is_given(context: typer.Context, name: str) -> bool:
    """Whether an option stands on the command line itself."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _words() -> list[str]:
    """Of the command line; --ray may stand without its address, which the parser has no form for."""
    words = sys.argv[1:]
    if "--ray" not in words:
        return words
    from vllava_cli.cluster.address import with_address

    return with_address(words)


def main() -> int:
    """Runs the command line and returns the exit code; prints every failure, once, on stderr."""
    os.environ.setdefault("TQDM_LEAVE", "")  # the libraries' progress bars go away when they are done
    try:
        app(args=_words(), prog_name="vllava")
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
        if isinstance(exc, BrokenPipeError) or code:
            return code
        Screen().error(f"The output can't be written to stdout: {exc.strerror or exc}.")
        return 1
    return code


def _our_bug() -> int:
    import traceback

    traceback.print_exc()
    Screen().error("This is a bug in vllava: please report it with the lines above.")
    return OUR_BUG
