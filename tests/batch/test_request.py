"""What the words of a batch's command line mean together, and what is refused, in which words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import typer

from tests.refusals import refused
from vllava_cli.batch.jobs import Shard
from vllava_cli.batch.request import (
    Destination,
    Inputs,
    QuestionWords,
    RayOptions,
    destination_of,
    devices_of,
    inputs_of,
    ray_options_of,
    shard_of,
)
from vllava_cli.batch.rows import Format
from vllava_cli.cli import app
from vllava_cli.errors import UsageError

USAGE = 'vllava batch "QUESTION" PATH…'
USAGE_Q = 'vllava batch -Q "QUESTION" PATH…'


pytestmark = pytest.mark.usefixtures("in_a_folder")


def given(
    *words: str, q: Sequence[str] = (), jobs: str | None = None, videos: str | None = None, **flags: bool
) -> Inputs:
    flags = {"is_recursive": False, "is_null": False} | flags
    return inputs_of(words, q, Path(jobs) if jobs else None, [Path(videos)] if videos else [], **flags)


def test_words_become_inputs() -> None:
    assert given("Why?", "a.mp4", "b") == Inputs(paths=("a.mp4", "b"), questions=("Why?",))
    assert given("a.mp4", "b", q=["Why?", "Who?"]) == Inputs(paths=("a.mp4", "b"), questions=("Why?", "Who?"))
    assert given(jobs="j.csv", videos="v") == Inputs(jobs=Path("j.csv"), videos=(Path("v"),))
    assert given(jobs="-", q=["Why?"]) == Inputs(jobs=Path("-"), questions=("Why?",))
    assert given("Why?", "-", is_recursive=True, is_null=True) == Inputs(
        paths=("-",), questions=("Why?",), is_recursive=True, is_null=True
    )
    assert given("What happens in a.mp4", "a.mp4").questions == ("What happens in a.mp4",)
    assert given("a.mp4", q=["b.mp4"]).questions == ("b.mp4",)


EMPTY = "A question given with -Q is empty: give it a text, or leave it out."
EXPECTED = f" where the question is expected: {USAGE}, or {USAGE_Q}."


@pytest.mark.parametrize(
    ("words", "options", "said"),
    [
        *(((word, "What?"), {}, f"{word!r} is a clip{EXPECTED}") for word in ("a.mp4", "clips", "A.JPG")),
        (("-", "What?"), {}, f"- is stdin{EXPECTED}"),
        *(((text, "a.mp4"), {}, f"The question is empty: {USAGE}.") for text in ("", " ", "\n")),
        (("a.mp4",), {"q": ["Why?", " "]}, EMPTY),
        ((), {"jobs": "j.csv", "q": [""]}, EMPTY),
        ((), {}, f"No question and no clip was given: {USAGE}."),
        (("Why?",), {}, f"No clip was given: {USAGE}, or - to read paths from stdin."),
        ((), {"q": ["Why?"]}, f"No clip was given: {USAGE_Q}, or - to read paths from stdin."),
        (
            ("Why?",),
            {"jobs": "j.csv"},
            "--jobs names the clips itself: leave 'Why?' out, or give it with -Q if it is a question.",
        ),
        (("a.mp4",), {"jobs": "j.csv", "q": ["Why?"]}, "--jobs names the clips itself: leave 'a.mp4' out."),
        (
            ("Why?", "a.mp4"),
            {"videos": "v"},
            "--videos says where the clips of --jobs are, and there is no --jobs. Leave it out, or add --jobs FILE.",
        ),
        (
            ("Why?", "a.mp4"),
            {"is_null": True},
            "-0 needs paths on stdin: add - to the paths, as in find . -print0 | … -0 … -.",
        ),
        (
            (),
            {"jobs": "j.csv", "is_recursive": True},
            "--recursive applies to folders, and --jobs names the clips itself. Leave one of them out.",
        ),
        (
            (),
            {"jobs": "-", "is_null": True},
            "-0 applies to paths on stdin, and --jobs names the clips itself. Leave one of them out.",
        ),
    ],
)
def test_words_that_make_no_inputs_are_refused(words: tuple[str, ...], options: dict[str, Any], said: str) -> None:
    Path("clips").mkdir()
    assert refused(UsageError, given, *words, **options) == said


@pytest.mark.parametrize(
    ("line", "words", "questions", "is_quiet"),
    [
        ("Why? a.mp4 -q", "Why? a.mp4", "", True),
        ("-q Why? a.mp4", "Why? a.mp4", "", True),
        ("Why? -q a.mp4", "Why? a.mp4", "", True),
        ("Why? -q gone", "Why? gone", "", True),
        ("Why? -q -", "Why? -", "", True),
        ("-Q Why? -q gone", "gone", "Why?", True),
        ("--jobs j.csv -q", "", "", True),
        ("Why? -- -q a.mp4", "Why? -q a.mp4", "", False),
        ("-q Why? -q Who? a.mp4", "a.mp4", "Why? Who?", False),
        ("a.mp4 -q Why?", "a.mp4", "Why?", False),
        ("- -q Why? --quiet", "-", "Why?", True),
        ("--jobs j.csv -q Why?", "", "Why?", False),
    ],
)
def test_minus_q_is_quiet_unless_what_follows_can_only_be_a_question(
    line: str, words: str, questions: str, is_quiet: bool
) -> None:
    root: Any = typer.main.get_command(app)
    read = root.commands["batch"].make_context("batch", line.split()).params
    asked = QuestionWords.of(
        line.split(), read["words"], read["question"], has_jobs=bool(read["jobs"]), is_quiet=read["quiet"]
    )
    assert (list(asked.words), list(asked.questions), asked.is_quiet) == (words.split(), questions.split(), is_quiet)
    assert bool(asked.notice) == ("-q W" in line and questions != "")


def destined(path: str | None = None, format: Any = None, fields: str | None = None, **flags: bool) -> Destination:
    return destination_of(path, format, fields, **({"is_retrying": False, "is_overwriting": False} | flags))


@pytest.mark.parametrize(
    ("path", "format", "found"),
    [
        (None, None, "jsonl"),
        (None, "tsv", "tsv"),
        ("out.csv", None, "csv"),
        ("out.CSV", None, "csv"),
        ("out.csv", "jsonl", "jsonl"),
        ("out.json", None, "jsonl"),
        ("csv", None, "jsonl"),
    ],
)
def test_the_format_goes_by_the_wish_then_by_the_ending(path: str | None, format: Format | None, found: Format) -> None:
    assert destined(path, format) == Destination(path=Path(path) if path else None, format=found)


def test_flags_go_along_and_with_ray_rows_go_into_a_folder_or_below_a_url() -> None:
    assert destined("-", "csv", "path, error.kind") == Destination(format="csv", fields=("path", "error.kind"))
    assert destined("o.csv", is_safe=True) == Destination(path=Path("o.csv"), format="csv", is_safe=True)
    for flag in ("is_retrying", "is_overwriting", "is_pruning"):
        assert destined("o.jsonl", **{flag: True}) == Destination(path=Path("o.jsonl"), **{flag: True})  # type: ignore[arg-type]
    for name, format in (("s3://bucket/run", "parquet"), ("out", "jsonl"), ("out.csv", None)):
        assert destined(name, format, has_ray=True) == Destination(parts=name, is_parquet=format == "parquet")


NO_FILE = " needs a file of rows: name it with -o FILE."
NO_PLACE = "--ray writes parts into a folder: name it with -o, a path or a URL such as s3://BUCKET/RUN."
NO_TABLE = "--safe-cells applies only to tables: add --format csv or tsv, or leave it out."


@pytest.mark.parametrize(
    ("path", "format", "flags", "said"),
    [
        *((path, None, {"is_retrying": True}, f"--retry-errors{NO_FILE}") for path in (None, "-")),
        (None, None, {"is_overwriting": True}, f"--overwrite{NO_FILE}"),
        (None, None, {"is_pruning": True}, f"--prune{NO_FILE}"),
        *((path, None, {"is_safe": True}, NO_TABLE) for path in (None, "o.jsonl")),
        (
            "o.jsonl",
            None,
            {"is_retrying": True, "is_overwriting": True},
            "--overwrite does all jobs again, --retry-errors only those that failed. Give one of them.",
        ),
        ("out", "csv", {"has_ray": True}, "--format csv can't be used with --ray: give jsonl or parquet."),
        *((path, None, {"has_ray": True}, NO_PLACE) for path in (None, "-")),
        ("out", "parquet", {}, "--format parquet needs --ray. Give jsonl, csv or tsv, or add --ray."),
        ("s3://b/run", None, {}, "'s3://b/run' is a URL: rows go there only with --ray. Name a file, or add --ray."),
    ],
)
def test_places_and_formats_that_do_not_go_together_are_refused(
    path: str | None, format: str | None, flags: dict[str, bool], said: str
) -> None:
    assert refused(UsageError, destined, path, format, **flags) == said


@pytest.mark.parametrize(
    ("gpus", "devices"),
    [
        (None, ()),
        ("all", ("all",)),
        ("0", ("cuda:0",)),
        ("0, 2", ("cuda:0", "cuda:2")),
        ("cpu,cpu", ("cpu", "cpu")),
        ("cuda:1,xpu:0", ("cuda:1", "xpu:0")),
    ],
)
def test_gpus_become_devices(gpus: str | None, devices: tuple[str, ...]) -> None:
    assert devices_of(gpus, None) == devices


def test_a_shard_is_read() -> None:
    assert [shard_of(text) for text in (None, "1/1", "16/16")] == [None, Shard(number=1, of=1), Shard(number=16, of=16)]


NO_GPUS = " is not a list of GPUs: give --gpus all, or their numbers separated by commas, like 0,1."
NO_SHARD = " is not a shard: give its number and how many there are, 1/16 to 16/16."
NO_SHARDS = ("", "3", "0/16", "17/16", "3/0", "-1/3", "3/16/2", "a/b", "3 /16", "²/3", "1/" + "9" * 10)
RAY = ("auto", None, None, ())
NO_RAY = " applies only with --ray: add it, or leave it out."


@pytest.mark.parametrize(
    ("call", "words", "others", "said"),
    [
        *((devices_of, (gpus, None), {}, f"{gpus!r}{NO_GPUS}") for gpus in ("", ",", "0,", "0,,1", "all,0", "0,all")),
        (devices_of, ("all", "cpu"), {}, "--gpus and --device both say where the model runs. Give one of them."),
        *((shard_of, (text,), {}, f"{text!r}{NO_SHARD}") for text in NO_SHARDS),
        *(
            (
                *(ray_options_of, ("auto", actors, None, ()), {}),
                f"--actors {actors!r} is not a number of engines: give 1 or more, or auto.",
            )
            for actors in ("0", "x", "-1", "1234567")
        ),
        (ray_options_of, (None, "2", None, ()), {}, f"--actors{NO_RAY}"),
        (ray_options_of, (None, None, 0.0, ()), {}, f"--gpus-per-actor{NO_RAY}"),
        (ray_options_of, (None, None, None, ["s3"]), {}, f"--allow{NO_RAY}"),
        (
            *(ray_options_of, RAY, {"gpus": "all"}),
            "--gpus can't be used with --ray. Say how many engines with --actors.",
        ),
        (
            *(ray_options_of, RAY, {"shard": "1/2"}),
            "--shard can't be used with --ray. Ray distributes the jobs itself: leave one of them out.",
        ),
        (
            *(ray_options_of, RAY, {"fields": "id"}),
            "--fields can't be used with --ray. Merge the parts and take the fields with jq.",
        ),
        (
            *(ray_options_of, RAY, {"is_pruning": True}),
            "--prune can't be used with --ray. Merge the parts: rows of clips that have changed are left out.",
        ),
    ],
)
def test_what_is_no_device_no_shard_and_no_cluster_is_refused(
    call: Callable[..., object], words: tuple[object, ...], others: dict[str, object], said: str
) -> None:
    assert refused(UsageError, call, *words, **others) == said


@pytest.mark.parametrize(("actors", "count"), [("4", 4), ("auto", None), (None, None)])
def test_a_cluster_has_its_options(actors: str | None, count: int | None) -> None:
    assert ray_options_of("head:6379", actors, 0.5, ["s3,https"]) == RayOptions(
        address="head:6379", actors=count, gpus_per_actor=0.5, allowed=("s3,https",)
    )
