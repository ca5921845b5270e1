"""`--dry-run` tells how much there is to do: by headers and what is on this disk, without a model."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from tests.batch.parts import Reading, batch_of, good
from tests.commands.shell import Shell
from tests.hub_server import COMMIT, open_hub, put_into
from vllava_cli import demo
from vllava_cli.batch.output import Destination
from vllava_cli.batch.request import BatchRequest, Inputs
from vllava_cli.batch.rows import row_of
from vllava_cli.batch.run import jobs_of, run, run_info
from vllava_cli.nouns import Source, Wishes
from vllava_cli.storage.jsonl import Journal

MODEL = "owner/model"
CLIPS = tuple(str(clip) for clip in demo.clips() if clip.suffix == ".mp4")[:4]
LENGTH = "clips     4 videos\nduration  0:10\n"
UNKNOWN = "unknown   which jobs are {}: their ids depend on the revision of {}, which isn't here\n"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--gpus", "all", "-o", "rows.csv"), "jobs      4: 4 to answer\n" + LENGTH),
        (("--shard", "1/1"), "jobs      4: at most 4 to answer\n" + LENGTH + UNKNOWN.format("in the shard", MODEL)),
        (("--ray", "-o", "rows"), "jobs  4: 4 to answer\n"),
    ],
    ids=["one machine", "a shard", "a cluster"],
)
def test_it_imports_no_model_library_asks_no_network_and_writes_nothing(
    words: tuple[str, ...], told: str, tmp_path: Path
) -> None:
    for name in ("torch", "transformers", "ray"):
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('{name} was imported')\n")
    path = os.pathsep.join((str(tmp_path), str(Path(__file__).parents[2])))
    before = sorted(tmp_path.rglob("*"))
    with open_hub() as hub:
        command = ("batch", "--model", MODEL, "What?", *CLIPS, *words, "--dry-run")
        done = Shell.run(*command, folder=tmp_path, environment=hub.environment | {"PYTHONPATH": path})
        assert (done.code, done.out, done.err) == (0, told, "")
        assert hub.requests == []
    assert sorted(tmp_path.rglob("*")) == before


def request(out: Path, **wishes: str | None) -> BatchRequest:
    return batch_of(
        inputs=Inputs(paths=CLIPS, questions=("What?",)),
        wishes=Wishes(**({"model": MODEL} | wishes)),  # type: ignore[arg-type]
        destination=Destination(path=out),
        is_dry=True,
    )


def told(batch: BatchRequest) -> str:
    reading = Reading()
    assert run(batch, reading.screen()) == 0
    assert reading.said[1] == ""
    return reading.said[0]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Has a row of one clip, as the model's commit has answered it."""
    path = tmp_path / "rows.jsonl"
    batch = request(path)
    about = run_info(batch, Source(model=MODEL, folder=tmp_path, revision=COMMIT))
    with Journal.open(path) as journal:
        journal.append(row_of(good(jobs_of(batch, about, Reading().screen())[0][0]), about))
    return path


ONE_DONE = "jobs      4: 3 to answer, 1 done before\n"


@pytest.mark.parametrize("revision", [None, "main", COMMIT])
def test_what_a_cached_model_has_done_is_known(revision: str | None, out: Path, hub_cache: Path) -> None:
    put_into(hub_cache, MODEL, {"config.json": "{}"})
    assert told(request(out, revision=revision)) == f"{ONE_DONE}clips     3 videos\nduration  0:07\n"


@pytest.mark.usefixtures("hub_cache")
def test_what_a_named_commit_has_done_is_known_without_its_files(out: Path) -> None:
    assert told(request(out, revision=COMMIT)).startswith(ONE_DONE)


@pytest.mark.usefixtures("hub_cache")
@pytest.mark.parametrize("revision", [None, "main", COMMIT[:7]])
def test_what_a_model_that_is_not_here_has_done_is_not_known(revision: str | None, out: Path) -> None:
    assert told(request(out, revision=revision)) == (
        "jobs      4: at most 4 to answer\n" + LENGTH + UNKNOWN.format("done", MODEL)
    )


def test_an_adapter_that_is_not_here_makes_other_answers(out: Path, hub_cache: Path) -> None:
    put_into(hub_cache, MODEL, {"config.json": "{}"})
    put_into(hub_cache, "owner/lora", {"adapter_config.json": "{}"})
    for lora in ("owner/lora", "owner/nowhere"):
        assert told(request(out, adapter=lora)).endswith(UNKNOWN.format("done", f"{MODEL} and {lora}"))


@pytest.mark.usefixtures("hub_cache")
def test_without_rows_there_is_nothing_that_is_not_known(out: Path) -> None:
    for destination in (Destination(path=out, is_overwriting=True), Destination(path=out.with_name("new.jsonl"))):
        assert told(replace(request(out), destination=destination)) == "jobs      4: 4 to answer\n" + LENGTH
