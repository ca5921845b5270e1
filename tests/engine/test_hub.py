"""Where a checkpoint is found: a folder, the demo, the cache, and what is said when it is nowhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vllava_cli import demo
from vllava_cli.engine import hub
from vllava_cli.errors import CheckpointError, HubError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache of this test's own."""
    from huggingface_hub import constants

    folder = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    return folder


def put_into(cache: Path, model: str, files: dict[str, str]) -> Path:
    """Lays files into the cache as the hub's own library does."""
    repository = cache / f"models--{model.replace('/', '--')}"
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    for name, text in files.items():
        (snapshot / name).write_text(text)
    return snapshot


def test_demo_is_the_embedded_folder() -> None:
    assert hub.locate("demo") == hub.Source(model="demo", folder=demo.CHECKPOINT)


def test_a_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    assert hub.locate(str(tmp_path)) == hub.Source(model=str(tmp_path), folder=tmp_path)


def test_a_folder_below_the_home_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model").mkdir()
    assert hub.locate("~/model").folder == tmp_path / "model"


@pytest.mark.parametrize("model", ["./nowhere", "/no/where", "a/b/c", "~/nowhere", "../nothing", "name with spaces"])
def test_an_unknown_folder_is_an_error(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError) as caught:
        hub.locate(model)
    assert str(caught.value) == (
        f"There is no model folder {model}: give the folder of a Video-LLaVA checkpoint, a hub id, or --model demo."
    )


def test_what_is_cached_is_used_without_the_network(cache: Path) -> None:
    snapshot = put_into(cache, "owner/model", {"config.json": "{}"})
    assert hub.locate("owner/model") == hub.Source(model="owner/model", folder=snapshot, revision=COMMIT)
    assert hub.locate("owner/model", COMMIT) == hub.locate("owner/model", "main")


@pytest.mark.parametrize(("model", "revision"), [("owner/model", None), ("owner/model", "v2"), ("single", None)])
def test_a_model_that_is_nowhere_names_the_ways_out(model: str, revision: str | None, cache: Path) -> None:
    with pytest.raises(HubError) as caught:
        hub.locate(model, revision)
    assert str(caught.value) == (
        f"The model {model} is not in the cache {cache} and the hub can't be reached: run hf download {model} "
        "where there is a network, or try --model demo, which is built in."
    )


@pytest.mark.parametrize("model", ["owner/-bad-", "a--b/c..d"])
@pytest.mark.usefixtures("cache")
def test_a_name_that_no_hub_takes_is_told(model: str) -> None:
    with pytest.raises(HubError) as caught:
        hub.locate(model)
    assert str(caught.value) == f"{model} is neither a folder nor a hub id such as LanguageBind/Video-LLaVA-7B-hf."


def test_missing_shards_are_named(tmp_path: Path) -> None:
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-1.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "model-1.safetensors").write_bytes(b"1234")
    assert hub.missing_weights(tmp_path) == ["model-2.safetensors"]
    assert hub.weights_bytes(tmp_path) == 4
    (tmp_path / "model-2.safetensors").touch()
    assert hub.missing_weights(tmp_path) == []


def test_an_index_that_is_no_index_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"index\.json can't be used: it is no JSON object"):
        hub.missing_weights(tmp_path)


def test_weights_that_are_not_cached_name_the_ways_out(cache: Path) -> None:
    put_into(cache, "owner/model", {"config.json": "{}"})
    with pytest.raises(HubError, match="run hf download owner/model"):
        hub.fetch_weights(hub.locate("owner/model"))


def test_a_cached_adapter_is_used_without_the_network(cache: Path) -> None:
    snapshot = put_into(cache, "owner/lora", dict.fromkeys(hub.ADAPTER_FILES, "{}"))
    assert hub.locate_adapter("owner/lora") == hub.Source(model="owner/lora", folder=snapshot, revision=COMMIT)
