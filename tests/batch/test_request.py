"""What the words of a batch's command line mean together, and what is refused, in which words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import typer

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
    return inputs_of(words, q, Path(jobs) if jobs else None, Path(videos) if videos else None, **flags)


def refused(call: Callable[..., object], *words: object, **options: object) -> str:
    """The sentence with which it is refused."""
    with pytest.raises(UsageError) as caught:
        call(*words, **options)
    return str(caught.value)


def refusal(*words: str, **options: object) -> str:
    return refused(given, *words, **options)


def test_the_first_word_is_the_question_and_the_others_are_paths() -> None:
    assert given("Why?", "a.mp4", "b") == Inputs(paths=("a.mp4", "b"), questions=("Why?",))
    assert given("Why?", "-") == Inputs(paths=("-",), questions=("Why?",))


def test_with_questions_of_their_own_all_words_are_paths() -> None:
    assert given("a.mp4", "b", q=["Why?", "Who?"]) == Inputs(paths=("a.mp4", "b"), questions=("Why?", "Who?"))


def test_a_jobs_file_leaves_no_words_and_may_be_lent_questions() -> None:
    assert given(jobs="j.csv", videos="v") == Inputs(jobs=Path("j.csv"), videos=Path("v"))
    assert given(jobs="-", q=["Why?"]) == Inputs(jobs=Path("-"), questions=("Why?",))


def test_how_to_read_folders_and_stdin_goes_along() -> None:
    assert given("Why?", "-", is_recursive=True, is_null=True) == Inputs(
        paths=("-",), questions=("Why?",), is_recursive=True, is_null=True
    )


def test_a_clip_in_the_place_of_the_question_is_refused() -> None:
    Path("clips").mkdir()
    for word in ("a.mp4", "clips", "-", "A.JPG"):
        what = "- is stdin" if word == "-" else f"{word!r} is a clip"
        assert refusal(word, "What happens?") == f"{what} where the question is expected: {USAGE}, or {USAGE_Q}."


def test_a_question_that_only_ends_like_a_clip_is_one() -> None:
    assert given("What happens in a.mp4", "a.mp4").questions == ("What happens in a.mp4",)
    assert given("a.mp4", q=["b.mp4"]).questions == ("b.mp4",)


@pytest.mark.parametrize("text", ["", " ", "\n"])
def test_an_empty_question_is_refused(text: str) -> None:
    assert refusal(text, "a.mp4") == f"The question is empty: {USAGE}."
    assert refusal("a.mp4", q=["Why?", text]) == "A question of -Q is empty: give it a text, or leave it out."
    assert refusal(jobs="j.csv", q=[text]) == "A question of -Q is empty: give it a text, or leave it out."


def test_too_few_words_are_refused() -> None:
    assert refusal() == f"No question and no clip was given: {USAGE}."
    assert refusal("Why?") == f"No clip was given: {USAGE}, or - to read paths from stdin."
    assert refusal(q=["Why?"]) == f"No clip was given: {USAGE_Q}, or - to read paths from stdin."


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


def test_words_beside_a_jobs_file_are_refused() -> None:
    assert refusal("Why?", jobs="j.csv") == (
        "--jobs names the clips itself: leave 'Why?' out, or give it with -Q if it is a question."
    )
    assert refusal("a.mp4", jobs="j.csv", q=["Why?"]) == "--jobs names the clips itself: leave 'a.mp4' out."


def test_options_that_have_nothing_to_act_on_are_refused() -> None:
    assert refusal("Why?", "a.mp4", videos="v") == (
        "--videos says where the clips of --jobs are, and there is no --jobs. Leave it out, or add --jobs FILE."
    )
    assert refusal("Why?", "a.mp4", is_null=True) == (
        "-0 is about paths on stdin, and - is not among the paths. Add it: find . -print0 | … -0 … -."
    )
    assert refusal(jobs="j.csv", is_recursive=True) == (
        "--recursive is about folders, and --jobs names the clips itself. Leave one of them out."
    )
    assert refusal(jobs="-", is_null=True) == (
        "-0 is about paths on stdin, and --jobs names the clips itself. Leave one of them out."
    )


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


def test_minus_as_output_is_stdout() -> None:
    assert destined("-", "csv", "path, error.kind") == Destination(format="csv", fields=("path", "error.kind"))


def test_going_on_and_beginning_anew_need_a_file() -> None:
    assert destined("o.jsonl", is_retrying=True) == Destination(path=Path("o.jsonl"), is_retrying=True)
    assert destined("o.jsonl", is_overwriting=True) == Destination(path=Path("o.jsonl"), is_overwriting=True)
    assert destined("o.jsonl", is_pruning=True) == Destination(path=Path("o.jsonl"), is_pruning=True)
    for path in (None, "-"):
        for flag, name in (
            ("--retry-errors", "is_retrying"),
            ("--overwrite", "is_overwriting"),
            ("--prune", "is_pruning"),
        ):
            assert (
                refused(destined, path, **{name: True}) == f"{flag} is about the rows in a file: name it with -o FILE."
            )


def test_safe_cells_need_a_table() -> None:
    assert destined("o.csv", is_safe=True) == Destination(path=Path("o.csv"), format="csv", is_safe=True)
    for path in ("o.jsonl", None):
        with pytest.raises(UsageError, match="--safe-cells is about the cells of a table: add --format csv or tsv"):
            destined(path, is_safe=True)


def test_trying_errors_again_and_beginning_anew_contradict_each_other() -> None:
    assert refused(destined, "o.jsonl", is_retrying=True, is_overwriting=True) == (
        "--overwrite does all jobs again, --retry-errors only those that failed. Give one of them."
    )


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


@pytest.mark.parametrize("gpus", ["", ",", "0,", "0,,1", "all,0", "0,all"])
def test_other_lists_of_gpus_are_refused(gpus: str) -> None:
    assert refused(devices_of, gpus, None) == (
        f"{gpus!r} is no list of GPUs: give --gpus all, or their numbers separated by commas, like 0,1."
    )


def test_gpus_and_a_device_contradict_each_other() -> None:
    assert (
        refused(devices_of, "all", "cuda:0") == "--gpus and --device both say where the model runs. Give one of them."
    )
    assert devices_of(None, "cuda:0") == ()


@pytest.mark.parametrize(
    ("text", "shard"),
    [
        (None, None),
        ("1/1", Shard(number=1, of=1)),
        ("3/16", Shard(number=3, of=16)),
        ("16/16", Shard(number=16, of=16)),
    ],
)
def test_a_shard_is_read(text: str | None, shard: Shard | None) -> None:
    assert shard_of(text) == shard


@pytest.mark.parametrize(
    "text", ["", "3", "0/16", "17/16", "3/0", "-1/3", "3/16/2", "a/b", "3 /16", "²/3", "1/" + "9" * 10]
)
def test_what_is_no_shard_is_refused(text: str) -> None:
    assert refused(shard_of, text) == f"{text!r} is not a shard: give its number and how many there are, 1/16 to 16/16."


def test_with_ray_rows_go_into_a_folder_or_below_a_url() -> None:
    for name, format in (("s3://bucket/run", "parquet"), ("out", "jsonl"), ("out.csv", None)):
        assert destined(name, format, has_ray=True, is_retrying=True) == Destination(
            parts=name, is_parquet=format == "parquet", is_retrying=True
        )


@pytest.mark.parametrize(
    ("name", "format", "has_ray", "said"),
    [
        ("out", "csv", True, "--format csv can't be used with --ray: give jsonl or parquet."),
        *(
            (
                name,
                None,
                True,
                "--ray writes parts into a folder: name it with -o, a path or a URL such as s3://BUCKET/RUN.",
            )
            for name in (None, "-")
        ),
        ("out", "parquet", False, "--format parquet is written with --ray. Give jsonl, csv or tsv, or add --ray."),
        ("s3://b/run", None, False, "'s3://b/run' is a URL: rows go there with --ray. Name a file, or add --ray."),
    ],
)
def test_places_and_formats_that_do_not_go_together_are_refused(
    name: str | None, format: str | None, has_ray: bool, said: str
) -> None:
    assert refused(destined, name, format, has_ray=has_ray) == said


@pytest.mark.parametrize(("actors", "count"), [("4", 4), ("auto", None), (None, None)])
def test_a_cluster_has_its_options(actors: str | None, count: int | None) -> None:
    assert ray_options_of("head:6379", actors, 0.5, ["s3,https"]) == RayOptions(
        address="head:6379", actors=count, gpus_per_actor=0.5, allowed=("s3,https",)
    )


@pytest.mark.parametrize(
    ("others", "said"),
    [
        ({"gpus": "all"}, "--gpus can't be used with --ray. Say how many engines with --actors."),
        (
            {"shard": "1/2"},
            "--shard can't be used with --ray. Ray distributes the jobs itself: leave one of them out.",
        ),
        ({"fields": "id"}, "--fields can't be used with --ray. Merge the parts and take the fields with jq."),
        (
            {"is_pruning": True},
            "--prune can't be used with --ray. Merge the parts: rows of clips that have changed are left out.",
        ),
    ],
)
def test_what_contradicts_a_cluster_is_refused(others: dict[str, Any], said: str) -> None:
    assert refused(ray_options_of, "auto", None, None, (), **others) == said
    assert ray_options_of(None, None, None, (), **others) is None


@pytest.mark.parametrize("actors", ["0", "x", "-1", "1234567"])
def test_what_is_no_number_of_engines_is_refused(actors: str) -> None:
    assert (
        refused(ray_options_of, "auto", actors, None, ())
        == f"--actors {actors!r} is no number of engines: give 1 or more, or auto."
    )


@pytest.mark.parametrize(
    ("words", "flag"),
    [(("2", None, ()), "--actors"), ((None, 0.0, ()), "--gpus-per-actor"), ((None, None, ["s3"]), "--allow")],
)
def test_what_is_about_a_cluster_needs_one(words: Any, flag: str) -> None:
    with pytest.raises(UsageError, match=f"^{flag} is about a cluster: add --ray, or leave it out"):
        ray_options_of(None, *words)
