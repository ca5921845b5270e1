"""The command line: parses argv, builds the request of a command, and calls the command.

`main` turns every failure into a message and an exit code.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vllava_cli import __version__
from vllava_cli import evaluate_options as judged
from vllava_cli import options as given
from vllava_cli import search_options as sought
from vllava_cli import serve_options as served
from vllava_cli.errors import INTERRUPTED, UsageError, VllavaError
from vllava_cli.nouns import AUTO, DEFAULT_MODEL, STDIN, WHITE, Wishes
from vllava_cli.screen import Screen, fill_closed, stdout_error
from vllava_cli.times import framing_of
from vllava_cli.usage import CliCommand, CliGroup, UsageFault, fault_sentence

if TYPE_CHECKING:
    from vllava_cli.commands.asked import Ask

USAGE = 2
OUR_BUG = 3
MOST_TIMES = 64

app = typer.Typer(
    cls=CliGroup,
    help="Answer questions about videos with Video-LLaVA.",
    epilog="Man pages: man vllava, man vllava-ask. Exit codes: 0 done, 1 failed, 2 usage, 3 our bug, 130 interrupted.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _command(**settings: Any) -> Callable[[Callable[..., int]], object]:
    """Makes a function a command of `app`; typer reads its name, its help and its options from the function."""
    return lambda function: app.command(cls=CliCommand, **settings)(given.with_options(function))


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


@_command(no_args_is_help=True)
def ask(
    *,
    words: given.Words,
    wishes: given.WishesMade,
    framing: given.FramingMade,
    windowing: given.WindowingMade = None,
    limits: given.LimitsMade,
    sampling: given.SamplingMade,
    choices: given.Choices = None,
    calibrate: given.Calibrate = False,
    agreeing: given.AgreeingMade = None,
    output: given.CueFile = None,
    format: given.CueFormat = None,
    overwrite: given.Overwrite = False,
    merge: given.Merge = True,
    summary: given.SummaryQuestion = None,
    dry_run: given.DryRun = False,
    subs: given.SubsWish = "off",
    clip_cache: given.ClipCacheUsed = True,
    server: given.ServerWish = AUTO,
    keep: given.Keep = None,
    json: given.Json = False,
    stream: given.Stream = True,
    verbose: given.Verbose = False,
    quiet: given.Quiet = False,
) -> int:
    """Answer a question about videos or images.

    The answer is streamed: each word is shown as it comes.
    """
    from vllava_cli.commands.asked import Ask
    from vllava_cli.commands.start import question_of, split_words

    clips, question = split_words(words, sys.stdin)
    request = Ask(
        clips=clips,
        question=question_of(question, sys.stdin),
        wishes=wishes,
        framing=framing,
        sampling=given.choosing(sampling, choices, is_calibrated=calibrate),
        limits=limits,
        output="json" if json else "stream" if stream else "whole",
        has_clip_cache=clip_cache,
        server=server,
        keep_s=keep,
        agreeing=given.checked(agreeing, framing, sampling),
        subs=given.subs_of(subs, len(clips)),
    )
    screen = Screen(is_quiet=quiet, is_verbose=verbose)
    if divided := given.windowing_with(windowing, framing):
        from vllava_cli.batch import windowed_ask
        from vllava_cli.commands.keeping import keep as start_server

        if keep is not None and not dry_run:
            start_server(request, screen)
        wanted = windowed_ask.WindowedAsk(
            ask=request,
            windowing=divided,
            output=output,
            format=format,
            is_overwriting=overwrite,
            is_merging=merge,
            summary=summary,
            is_dry=dry_run,
        )
        return windowed_ask.run(wanted, screen)
    about_windows = {"--output": output, "--format": format, "--overwrite": overwrite, "--no-merge": not merge}
    about_windows |= {"--summary": summary is not None, "--dry-run": dry_run}
    if name := next((name for name, value in about_windows.items() if value), None):
        raise UsageError(f"{name} is about the windows of a clip: add --every 30s, or leave it out.")
    from vllava_cli.commands import served_ask

    return served_ask.run(request, screen, partial(_ask_here, screen))


def _ask_here(screen: Screen, request: Ask, stdin_copy: Path | None) -> int:
    """Answers in this process."""
    from vllava_cli.commands import ask as command

    return command.run(request, screen, command.Means(copy=stdin_copy))


@_command()
def chat(
    *,
    context: typer.Context,
    clips: Annotated[
        list[str] | None,
        typer.Argument(metavar="[CLIP]...", help="Videos, images or folders of pictures to talk about."),
    ] = None,
    continue_: Annotated[
        str | None,
        typer.Option(
            "--continue",
            "-c",
            metavar="[ID]",
            help="Go on with the last conversation, or with one that --sessions lists.",
        ),
    ] = None,
    sessions: Annotated[
        bool, typer.Option("--sessions", help="List the conversations that are kept, the last one first, and stop.")
    ] = False,
    session: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Keep the conversation in this file, and go on with the one that is in it.",
            show_default="a new file in the state folder",
        ),
    ] = None,
    wishes: given.WishesMade,
    framing: given.FramingMade,
    limits: given.LimitsMade,
    sampling: given.SamplingMade,
    clip_cache: given.ClipCacheUsed = True,
    server: given.ServerWish = AUTO,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object for each answer, a line each.")] = False,
    stream: given.Stream = True,
    verbose: given.Verbose = False,
    quiet: given.Quiet = False,
) -> int:
    """Talk about videos or images, question after question.

    Each answer knows what was asked before.
    """
    from vllava_cli.commands.chat import chat_loop as command
    from vllava_cli.commands.start import chat_clips

    if continue_ and session:
        raise UsageError("--session and --continue can't be combined. Give one of them.")
    if sessions:
        from vllava_cli.commands.chat.recorder import list_sessions

        return list_sessions(Screen(is_quiet=quiet), is_json=json)
    request = command.Chat(
        clips=chat_clips(clips or []),
        wishes=wishes,
        is_model_named=_is_given(context, "model"),
        framing=framing,
        sampling=sampling,
        limits=limits,
        output="json" if json else "stream" if stream else "whole",
        continued=continue_,
        session=session,
        has_clip_cache=clip_cache,
        server=server,
    )
    return command.run(request, Screen(is_quiet=quiet, is_verbose=verbose))


@_command(no_args_is_help=True)
def batch(
    *,
    words: given.BatchWords = None,
    question: given.Questions = None,
    jobs: given.Jobs = None,
    videos: given.Videos = None,
    recursive: given.Recursive = False,
    null: given.Null = False,
    output: given.Output = None,
    format: given.TableFormat = None,
    beside: given.Beside = False,
    merge: given.Merge = True,
    fields: given.Fields = None,
    safe_cells: given.SafeCells = False,
    retry_errors: given.RetryErrors = False,
    overwrite: given.Overwrite = False,
    prune: given.Prune = False,
    fail_fast: given.FailFast = False,
    dry_run: given.DryRun = False,
    choices: given.JobChoices = None,
    choice_style: given.ChoiceStyle = "text",
    calibrate: given.Calibrate = False,
    shard: given.ShardWish = None,
    gpus: given.Gpus = None,
    ray: given.Ray = None,
    actors: given.Actors = None,
    gpus_per_actor: given.GpusPerActor = None,
    allow: given.Allow = None,
    batch_size: given.BatchSize = "auto",
    decoders: given.Decoders = None,
    wishes: given.WishesMade,
    framing: given.FramingMade,
    windowing: given.WindowingMade = None,
    agreeing: given.AgreeingMade = None,
    subs: given.SubsWish = "off",
    limits: given.LimitsMade,
    sampling: given.SamplingMade,
    clip_cache: given.ClipCacheUsed = True,
    server: given.ServerWish = AUTO,
    hash: given.Hash = False,
    stats: given.ShowStats = False,
    verbose: given.Verbose = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only rows and errors.")] = False,
) -> int:
    """Ask questions about many clips: a row of JSON for each.

    Nothing is lost and nothing done twice: with -o, the same command goes on where it stopped.
    """
    from vllava_cli.batch.request import (
        BatchRequest,
        QuestionWords,
        check_cues,
        destination_of,
        devices_of,
        inputs_of,
        ray_options_of,
        shard_of,
    )

    asked = QuestionWords.of(sys.argv, words or [], question or [], has_jobs=jobs is not None, is_quiet=quiet)
    screen = Screen(is_quiet=asked.is_quiet, is_verbose=verbose)
    request = BatchRequest(
        inputs=inputs_of(asked.words, asked.questions, jobs, videos or [], is_recursive=recursive, is_null=null),
        wishes=wishes,
        framing=framing,
        windowing=given.windowing_with(windowing, framing),
        agreeing=given.checked(agreeing, framing, sampling),
        subs=given.subs_of(subs),
        sampling=given.choosing(sampling, choices, is_calibrated=calibrate, may_have_others=jobs is not None),
        limits=limits,
        destination=destination_of(
            output,
            format,
            fields,
            has_ray=ray is not None,
            is_retrying=retry_errors,
            is_overwriting=overwrite,
            is_pruning=prune,
            is_safe=safe_cells,
            is_beside=beside,
            is_merging=merge,
        ),
        most_rows=given.rows_of(batch_size),
        decoders=decoders,
        devices=devices_of(gpus, wishes.device),
        ray=ray_options_of(
            ray,
            actors,
            gpus_per_actor,
            allow or (),
            gpus=gpus,
            shard=shard,
            fields=fields,
            is_pruning=prune,
            has_windows=windowing is not None,
            has_samples=agreeing is not None,
            has_subs=subs != "off",
        ),
        shard=shard_of(shard),
        is_failing_fast=fail_fast,
        is_dry=dry_run,
        has_stats=stats,
        is_hashing=hash,
        has_letters=choice_style == "letter",
        has_clip_cache=clip_cache,
        server=server,
    )
    check_cues(request)
    if asked.notice:
        screen.notice(asked.notice)
    from vllava_cli.batch import run as command

    return command.run(request, screen)


@_command(no_args_is_help=True)
def find(
    *,
    words: sought.FindWords = None,
    query: sought.Queries = None,
    recursive: given.Recursive = False,
    windowing: sought.SearchWindowingMade,
    manner: sought.MannerMade,
    extracts: sought.ExtractsMade,
    calibrate: Annotated[
        bool,
        typer.Option("--calibrate/--no-calibrate", help="Take off by how much Yes leads about a blank clip."),
    ] = True,
    answer_cache: sought.AnswerCacheUsed = True,
    batch_size: given.BatchSize = "auto",
    decoders: given.Decoders = None,
    wishes: sought.SearchWishesMade,
    framing: sought.SearchFramingMade,
    limits: given.LimitsMade,
    clip_cache: given.ClipCacheUsed = True,
    server: given.ServerWish = AUTO,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Say on stderr what is asked, what was chosen, and why.")
    ] = False,
) -> int:
    """Find where in footage something is shown.

    As grep does, it prints a line for each hit, and exits with 0 for hits, 1 for none, 2 for trouble.
    """
    from vllava_cli.search import find as command
    from vllava_cli.search.query import SearchRequest, words_of

    queries, paths = words_of(words or [], query or [], is_recursive=recursive)
    if manner.is_null and manner.form != "names" and STDIN not in paths:
        raise UsageError("-0 is about names: add - to read them from stdin, or -l to print them, or leave it out.")
    if extracts.is_wanted and manner.is_silent:
        raise UsageError("--cut and --sheet write all hits, and -q stops at the first. Give one of them.")
    request = SearchRequest(
        queries=queries,
        paths=paths,
        is_recursive=recursive,
        wishes=wishes,
        framing=framing,
        windowing=windowing,
        limits=limits,
        is_calibrated=calibrate,
        most_rows=given.rows_of(batch_size),
        decoders=decoders,
        has_clip_cache=clip_cache,
        server=server,
        has_answer_cache=answer_cache,
        manner=manner,
        extracts=extracts,
    )
    return command.run(request, Screen(is_quiet=manner.is_silent, is_verbose=verbose))


@_command(no_args_is_help=True)
def score(
    *,
    rows: judged.RowFiles,
    gold: judged.Gold = None,
    gold_as: judged.GoldAs = "auto",
    by: judged.By = None,
    against: judged.Against = None,
    plot: judged.Plot = None,
    overwrite: judged.ReplaceJudged = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    quiet: judged.QuietJudged = False,
) -> int:
    """Score the answers of a batch.

    Accuracy and more, with 95% intervals, by group; no model is loaded.
    """
    from vllava_cli.evaluate import score as command

    request = command.ScoreRequest(
        rows=tuple(rows),
        gold=gold,
        gold_form=gold_as,
        by=tuple(by or ()),
        against=against,
        is_json=json,
        plot=plot,
        is_overwriting=overwrite,
    )
    return command.run(request, Screen(is_quiet=quiet))


@_command(no_args_is_help=True)
def export(
    *,
    rows: judged.RowFiles,
    form: judged.Form = "jsonl",
    gold: judged.Gold = None,
    gold_as: judged.GoldAs = "auto",
    output: judged.Exported = None,
    overwrite: judged.ReplaceJudged = False,
    quiet: judged.QuietJudged = False,
) -> int:
    """Write the answers of a batch for another scorer."""
    from vllava_cli.evaluate import export as command

    request = command.ExportRequest(
        rows=tuple(rows), form=form, gold=gold, gold_form=gold_as, output=output, is_overwriting=overwrite
    )
    return command.run(request, Screen(is_quiet=quiet))


@_command(no_args_is_help=True)
def report(
    *,
    rows: judged.RowFiles,
    output: judged.PageFile = Path("report.html"),
    gold: judged.Gold = None,
    gold_as: judged.GoldAs = "auto",
    overwrite: judged.ReplaceJudged = False,
    decoders: given.Decoders = None,
    limits: given.LimitsMade,
    quiet: judged.QuietJudged = False,
) -> int:
    """Show the answers of a batch on a page of HTML.

    The page has the frames that the model saw, filters and sorting, and needs no other file.
    """
    from vllava_cli.evaluate import report as command

    request = command.ReportRequest(
        rows=tuple(rows),
        output=output,
        gold=gold,
        gold_form=gold_as,
        is_overwriting=overwrite,
        decoders=decoders,
        limits=limits,
    )
    return command.run(request, Screen(is_quiet=quiet))


@_command()
def serve(
    *,
    context: typer.Context,
    port: served.Port = None,
    host: served.Host = None,
    token: served.Token = None,
    token_file: served.TokenFile = None,
    name: served.Names = None,
    root: served.Root = None,
    allow: served.Fetched = None,
    idle: served.Idle = None,
    batch_size: given.BatchSize = "auto",
    queue: served.Queue = 256,
    most_upload: served.MostUpload = None,
    decoders: given.Decoders = None,
    wishes: given.WishesMade,
    limits: given.LimitsMade,
    clip_cache: given.ClipCacheUsed = True,
    log: served.Logged = False,
    status: served.Status = False,
    stop: served.Stop = False,
    json: served.StatusJson = False,
    verbose: given.Verbose = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only errors.")] = False,
) -> int:
    """Keep the model loaded, and answer commands and programs.

    Questions are asked with vllava ask, chat, batch and find, or by OpenAI's protocol.
    """
    screen = Screen(is_quiet=quiet, is_verbose=verbose)
    if status and stop:
        raise UsageError("--status shows servers and --stop ends one. Give one of them.")
    if json and not status:
        raise UsageError("--json is about --status: add it, or leave --json out.")
    if status or stop:
        from vllava_cli.server.life import attend

        named = [each.name for each in fields(Wishes) if _is_given(context, each.name)]
        return attend.status(screen, is_json=json) if status else attend.stop(screen, wishes, named)
    from vllava_cli.server.life import launch
    from vllava_cli.server.serve_settings import MOST_UPLOAD_BYTES, ServeSettings

    os.environ.pop("VLLAVA_TOKEN", None)  # the processes that decode clips don't need it
    settings = ServeSettings(
        wishes=wishes,
        host=host or ServeSettings.host,
        port=port,
        token=served.token_of(token if port is not None or _is_given(context, "token") else None, token_file),
        names=tuple(name or ()),
        root=served.root_of(root),
        allowed=served.fetched_of(allow),
        idle_s=idle,
        most_rows=given.rows_of(batch_size),
        most_waiting=queue,
        most_upload_bytes=most_upload or MOST_UPLOAD_BYTES,
        limits=limits,
        decoders=decoders,
        is_logging=log,
        has_clip_cache=clip_cache,
    )
    return launch.run(settings, screen)


@_command(no_args_is_help=True)
def probe(
    *,
    clips: given.Clips,
    full: Annotated[bool, typer.Option("--full", help="Decode every frame, to find all damage.")] = False,
    limits: given.LimitsMade,
    json: given.JsonLines = False,
    quiet: given.Quiet = False,
) -> int:
    """Show the facts about clips, and what is wrong with them.

    It also says how their frames are found, and why.
    """
    from vllava_cli.commands import probe as command
    from vllava_cli.commands.start import clip_paths

    files = clip_paths(clips, sys.stdin)
    return command.run(files, Screen(is_quiet=quiet), limits=limits, is_full=full, is_json=json)


@_command(no_args_is_help=True)
def frames(
    *,
    clips: given.Clips,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="PATH",
            help="A .png or .jpg, a folder/ (made if it is missing), or - for stdout.",
            show_default="NAME-frames.png in the current folder; nothing with --show",
        ),
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Draw the sheet in the terminal.")] = False,
    model: given.Model = DEFAULT_MODEL,
    fit: given.FitWish = "crop",
    background: given.Background = WHITE,
    as_stored: given.AsStored = False,
    whole: Annotated[bool, typer.Option("--whole", help="Draw whole frames, not what the model sees of them.")] = False,
    each: Annotated[
        bool, typer.Option("--each", help="Write each frame, whole and unscaled, to a file of its own.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are already there.")] = False,
    start: given.Start = None,
    end: given.End = None,
    at: given.At = None,
    pick: given.PickWish = "uniform",
    limits: given.LimitsMade,
    json: given.JsonLines = False,
    quiet: given.Quiet = False,
) -> int:
    """Draw the frames of clips as the model sees them.

    They become contact sheets, in files or in the terminal.
    """
    from vllava_cli.commands import frames as command
    from vllava_cli.commands.start import clip_paths

    request = command.Sheets(
        clips=clip_paths(clips, sys.stdin),
        framing=framing_of(
            start,
            end,
            at_s=at,
            fit=fit,
            background=background,
            is_as_stored=as_stored,
            pick=pick,
            most=MOST_TIMES,
        ),
        model=model,
        output=output,
        is_whole=whole,
        is_each=each,
        is_shown=show,
        is_overwriting=overwrite,
        limits=limits,
        is_json=json,
    )
    return command.run(request, Screen(is_quiet=quiet))


@_command(no_args_is_help=True)
def merge(
    *,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The file to write, as JSON lines.")],
    shards: Annotated[
        list[str],
        typer.Argument(
            metavar="SHARD...",
            help="The output files of vllava batch --shard, or the folder or URL that --ray wrote.",
        ),
    ],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT if it is already there.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only errors.")] = False,
) -> int:
    """Join the outputs of a batch's shards into one.

    The output has each job exactly once.
    """
    from vllava_cli.batch import merge as command

    request = command.Merge(out=out, shards=tuple(shards), is_overwriting=overwrite)
    return command.run(request, Screen(is_quiet=quiet))


@_command(no_args_is_help=True)
def replay(
    *,
    rows: Annotated[
        str,
        typer.Argument(metavar="ROWS", help="What ask --json, chat --json or batch wrote; - reads stdin."),
    ],
    id: Annotated[
        list[str] | None,
        typer.Option(metavar="X", help="Only the row of this id; may be given several times.", show_default="all"),
    ] = None,
    limits: given.LimitsMade,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object for each row, a line each.")] = False,
    verbose: given.Verbose = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only the verdict on each row, and errors.")] = False,
) -> int:
    """Make the answers of rows again, and say which are the same."""
    from vllava_cli.commands import replay as command

    screen = Screen(is_quiet=quiet, is_verbose=verbose)
    return command.run(rows, screen, limits=limits, ids=id or (), is_json=json)


@_command()
def bench(
    *,
    context: typer.Context,
    words: given.BenchWords = None,
    model: given.Model = DEFAULT_MODEL,
    revision: given.Revision = None,
    adapter: given.AdapterName = None,
    random_weights: given.RandomWeights = None,
    device: given.Device = None,
    precision: given.Precisions = None,
    attention: given.Attentions = None,
    batch_size: given.Batches = None,
    max_new_tokens: given.MaxNewTokens = 64,
    repeat: given.Repeat = 5,
    short: given.Short = False,
    check: given.Check = False,
    save: given.Save = None,
    compare: given.Compare = None,
    plot: given.Plot = None,
    limits: given.LimitsMade,
    json: given.Json = False,
    verbose: given.Verbose = False,
    quiet: given.Quiet = False,
) -> int:
    """Measure how fast this tool is on this machine.

    Each figure is shown beside the documentation's snippet and the machine's limits.
    """
    from vllava_cli.commands import bench as command
    from vllava_cli.engine.measuring.figures import BenchTask

    if random_weights and (adapter or revision or _is_given(context, "model")):
        raise UsageError(
            "--random-weights can't be combined with --model, --revision or --adapter. Leave out one or the others."
        )
    clip, question = command.words_of(words or [])
    wishes_of = partial(given.wishes_of, model=model, revision=revision, adapter=adapter, device=device)
    request = command.Bench(
        clip=clip,
        wishes=tuple(
            wishes_of(precision=held, attention=kernel)
            for held in precision or ("auto",)
            for kernel in attention or ("auto",)
        ),
        random=random_weights,
        task=BenchTask(
            question=question,
            new_tokens=max_new_tokens,
            repeat=repeat,
            batches=batch_size or (1, 4, 16),
            is_short=short,
        ),
        is_checked=check,
        limits=limits,
        is_json=json,
        save=save,
        compare=compare,
        plot=plot,
    )
    return command.run(request, Screen(is_quiet=quiet, is_verbose=verbose))


@_command()
def doctor(
    *,
    wishes: given.WishesMade,
    json: given.Json = False,
) -> int:
    """Show this machine, and how the model would be loaded.

    It also gives the reasons, and says what would make it faster.
    """
    from vllava_cli.commands import doctor as command

    return command.run(wishes, Screen(), as_json=json)


@_command(name="help")
def help_(
    *,
    name: Annotated[
        str | None, typer.Argument(metavar="[COMMAND]", help="The command to explain.", show_default="all commands")
    ] = None,
) -> int:
    """List the commands, or explain one of them."""
    raise typer.Exit(app(args=[*([name] if name else []), "--help"], prog_name="vllava", standalone_mode=False))


@_command()
def demo(
    *,
    benchmark: Annotated[
        Path | None,
        typer.Option("--benchmark", metavar="FOLDER", help="Copy clips with questions and right answers to FOLDER."),
    ] = None,
    paths: Annotated[bool, typer.Option("--paths", help="Print only the files' paths, a line each.")] = False,
) -> int:
    """List the demo model's clips and what it can be asked."""
    from vllava_cli.commands import demo as command

    if benchmark:
        return command.copy_benchmark(Screen(), benchmark, paths_only=paths)
    return command.run(Screen(), paths_only=paths)


def _is_given(context: typer.Context, name: str) -> bool:
    """Returns True if the user gave the option on the command line, and not by an environment variable."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def main() -> int:
    """Runs the command line and returns the exit code. Prints a failure once, on stderr."""
    fill_closed()
    os.environ.setdefault("TQDM_LEAVE", "")  # the libraries' progress bars disappear at their end
    try:
        return _flushed(app(args=sys.argv[1:], prog_name="vllava", standalone_mode=False) or 0)
    except SystemExit as exc:  # shell completion ends like this
        return _flushed(exc.code if isinstance(exc.code, int) else 0)
    except UsageFault as exc:
        Screen().error(fault_sentence(exc))
        return USAGE
    except VllavaError as exc:
        return _told(exc)
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as exc:
        import traceback

        *_, (frame, _) = traceback.walk_tb(exc.__traceback__)
        # The parser prints help itself; everything else on stdout comes from a Screen.
        if isinstance(exc, OSError) and str(frame.f_globals.get("__name__")).endswith("click.utils"):
            return _told(stdout_error(sys.stdout, exc))
        traceback.print_exc()
        Screen().error("This is a bug in vllava: please report it with the lines above.")
        return OUR_BUG


def _flushed(code: int) -> int:
    """Flushes stdout and returns the code; if the flush fails and the code is 0, the code of that failure."""
    try:
        sys.stdout.flush()
    except OSError as exc:
        fault = stdout_error(sys.stdout, exc)
        return code or _told(fault)
    return code


def _told(fault: VllavaError) -> int:
    """Prints a failure that has a message, and returns its exit code."""
    if str(fault):
        Screen().error(str(fault))
    return fault.exit_code
