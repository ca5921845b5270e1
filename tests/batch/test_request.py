"""What the words of a batch's command line mean together, and what is refused, in which words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer

from vllava_cli.batch.jobs import Shard
from vllava_cli.batch.request import (
    BatchRequest,
    Destination,
    Inputs,
    QuestionWords,
    RayOptions,
    RayWords,
    destination_of,
    devices_of,
    inputs_of,
    on_ray,
    shard_of,
)
from vllava_cli.batch.tables import Format
from vllava_cli.cli import app
from vllava_cli.errors import UsageError
from vllava_cli.nouns import Framing, Sampling, Wishes

USAGE = 'vllava batch "QUESTION" PATH…'
USAGE_Q = 'vllava batch -Q "QUESTION" PATH…'


pytestmark = pytest.mark.usefixtures("in_a_folder")


def given(
    *words: str,
    q: Sequence[str] = (),
    jobs: str | None = None,
    videos: str | None = None,
    is_recursive: bool = False,
    is_null: bool = False,
) -> Inputs:
    return inputs_of(
        words,
        q,
        Path(jobs) if jobs else None,
        Path(videos) if videos else None,
        is_recursive=is_recursive,
        is_null=is_null,
    )


def refusal(*words: str, **options: object) -> str:
    with pytest.raises(UsageError) as caught:
        given(*words, **options)  # type: ignore[arg-type]
    return str(caught.value)


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


def destined(
    path: str | None = None,
    format: Format | None = None,
    fields: str | None = None,
    *,
    is_retrying: bool = False,
    is_overwriting: bool = False,
    is_pruning: bool = False,
    is_safe: bool = False,
) -> Destination:
    return destination_of(
        path,
        format,
        fields,
        is_retrying=is_retrying,
        is_overwriting=is_overwriting,
        is_pruning=is_pruning,
        is_safe=is_safe,
    )


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
            with pytest.raises(UsageError) as caught:
                destined(path, **{name: True})
            assert str(caught.value) == f"{flag} is about the rows in a file: name it with -o FILE."


def test_safe_cells_need_a_table() -> None:
    assert destined("o.csv", is_safe=True) == Destination(path=Path("o.csv"), format="csv", is_safe=True)
    for path in ("o.jsonl", None):
        with pytest.raises(UsageError, match="--safe-cells is about the cells of a table: add --format csv or tsv"):
            destined(path, is_safe=True)


def test_trying_errors_again_and_beginning_anew_contradict_each_other() -> None:
    with pytest.raises(UsageError) as caught:
        destined("o.jsonl", is_retrying=True, is_overwriting=True)
    assert str(caught.value) == (
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
    with pytest.raises(UsageError) as caught:
        devices_of(gpus, None)
    assert str(caught.value) == (
        f"{gpus!r} is no list of GPUs: give --gpus all, or their numbers with commas between, 0,1."
    )


def test_gpus_and_a_device_contradict_each_other() -> None:
    with pytest.raises(UsageError) as caught:
        devices_of("all", "cuda:0")
    assert str(caught.value) == "--gpus and --device both say where the model runs. Give one of them."
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
    with pytest.raises(UsageError) as caught:
        shard_of(text)
    assert str(caught.value) == f"{text!r} is not a shard: give its number and how many there are, 1/16 to 16/16."


INPUTS = Inputs(paths=("a.mp4",), questions=("Why?",))


def batch(
    *, destination: Destination | None = None, devices: tuple[str, ...] = (), shard: Shard | None = None
) -> BatchRequest:
    return BatchRequest(
        inputs=INPUTS,
        wishes=Wishes(device="cpu"),
        framing=Framing(),
        sampling=Sampling(),
        destination=destination or Destination(),
        most_rows=3,
        decoders=5,
        devices=devices,
        shard=shard,
    )


def test_all_that_is_said_of_a_cluster_is_one_request() -> None:
    plain = batch(destination=Destination(path=Path("x"), is_retrying=True))
    words = RayWords(
        ray="head:6379",
        actors="4",
        gpus_per_actor=0.5,
        allow=("s3,https",),
        output="s3://bucket/run",
        format="parquet",
    )
    assert on_ray(plain, words) == replace(
        plain,
        destination=Destination(parts="s3://bucket/run", is_parquet=True, is_retrying=True),
        ray=RayOptions(
            address="head:6379",
            actors=4,
            gpus_per_actor=0.5,
            allowed=("s3,https",),
        ),
    )


@pytest.mark.parametrize(
    ("plain", "words", "said"),
    [
        (batch(devices=("all",)), RayWords(), "--gpus can't be used with --ray. Say how many engines with --actors."),
        (
            batch(shard=Shard(number=1, of=2)),
            RayWords(),
            "--shard can't be used with --ray. Ray shares the jobs out by itself: leave one of them out.",
        ),
        (
            batch(destination=Destination(path=Path("x"), is_pruning=True)),
            RayWords(output="out"),
            "--prune can't be used with --ray. Merge the parts: rows of clips that have changed are left out.",
        ),
        (
            batch(),
            RayWords(output="out", format="csv"),
            "--format csv can't be used with --ray: give jsonl or parquet.",
        ),
        (
            batch(),
            RayWords(),
            "--ray writes parts into a folder: name it with -o, a path or a URL such as s3://BUCKET/RUN.",
        ),
        (
            batch(),
            RayWords(output="-"),
            "--ray writes parts into a folder: name it with -o, a path or a URL such as s3://BUCKET/RUN.",
        ),
        (batch(), RayWords(output="out", actors="0"), "--actors '0' is no number of engines: give 1 or more, or auto."),
        (batch(), RayWords(output="out", actors="x"), "--actors 'x' is no number of engines: give 1 or more, or auto."),
    ],
)
def test_what_contradicts_a_cluster_is_refused(plain: BatchRequest, words: RayWords, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        on_ray(plain, replace(words, ray="auto"))
    assert str(caught.value) == said


def test_fields_are_taken_from_the_merged_file() -> None:
    with pytest.raises(UsageError, match=r"--fields can't be used with --ray\. Merge the parts"):
        on_ray(batch(destination=Destination(fields=("id",))), RayWords(ray="auto", output="out"))


@pytest.mark.parametrize(
    ("words", "flag"),
    [
        (RayWords(actors="2"), "--actors"),
        (RayWords(gpus_per_actor=0.0), "--gpus-per-actor"),
        (RayWords(allow=("s3",)), "--allow"),
        (RayWords(format="parquet"), "--format parquet"),
        (RayWords(output="s3://bucket/run"), "'s3://bucket/run' is a URL: rows go there"),
    ],
)
def test_what_is_about_a_cluster_needs_one(words: RayWords, flag: str) -> None:
    with pytest.raises(UsageError, match=f"^{flag} "):
        on_ray(batch(), words)
    assert on_ray(batch(), RayWords(output="out", format="csv")) == batch()
