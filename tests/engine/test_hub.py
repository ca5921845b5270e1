"""Where a checkpoint is found: a folder, the demo, the cache, and what is said when it is nowhere."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.hub_server import COMMIT, put_into
from tests.refusals import refused
from vllava_cli import demo
from vllava_cli.engine import hub
from vllava_cli.engine.checkpoint import describe
from vllava_cli.errors import CheckpointError, HubError
from vllava_cli.nouns import Source

WHOLE = dict.fromkeys(("config.json", "preprocessor_config.json", *hub.USUAL), "{}")


def test_a_folder_is_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    for model, folder in (("demo", demo.CHECKPOINT), (str(tmp_path), tmp_path), (f"~/{tmp_path.name}", tmp_path)):
        assert hub.locate(model) == Source(model=model, folder=folder)


@pytest.mark.parametrize("model", ["./nowhere", "/no/where", "a/b/c", "~/nowhere", "../nothing", "name with spaces"])
def test_an_unknown_folder_is_an_error(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert refused(CheckpointError, hub.locate, model) == (
        f"There is no model folder {model}: give the folder of a Video-LLaVA checkpoint, a hub id, or --model demo."
    )


def test_a_folder_that_may_not_be_entered_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # to root, which tests may run as, nothing is forbidden
    with pytest.raises(CheckpointError, match=r"can't be read: permission denied\. Check its mode and owner\."):
        hub.locate(str(tmp_path))


def test_what_is_cached_is_used_without_the_network(hub_cache: Path) -> None:
    snapshot = put_into(hub_cache, "owner/model", WHOLE)
    assert hub.locate("owner/model") == Source(model="owner/model", folder=snapshot, revision=COMMIT)
    assert hub.locate("owner/model", COMMIT) == hub.locate("owner/model", "main")


@pytest.mark.parametrize(("model", "revision"), [("owner/model", None), ("owner/model", "v2"), ("single", None)])
def test_a_model_that_is_nowhere_is_told(model: str, revision: str | None, hub_cache: Path) -> None:
    assert refused(HubError, hub.locate, model, revision) == (
        f"The model {model} is not in the cache {hub_cache} and HF_HUB_OFFLINE is set: unset it where "
        "there is a network."
    )


def test_a_cached_adapter_is_found_for_who_will_say_what_it_is(hub_cache: Path) -> None:
    snapshot = put_into(hub_cache, "owner/lora", {"adapter_config.json": '{"base_model_name_or_path": "owner/base"}'})
    source = hub.locate("owner/lora")
    assert source == Source(model="owner/lora", folder=snapshot, revision=COMMIT)
    said = refused(CheckpointError, describe, source)
    assert said == "owner/lora is an adapter: give --model owner/base --adapter owner/lora."


@pytest.mark.parametrize("model", ["owner/-bad-", "a--b/c..d"])
@pytest.mark.usefixtures("hub_cache")
def test_a_name_that_no_hub_takes_is_told(model: str) -> None:
    said = refused(HubError, hub.locate, model)
    assert said == f"{model} is neither a folder nor a hub id such as LanguageBind/Video-LLaVA-7B-hf."


def test_weights_that_are_not_cached_are_named(hub_cache: Path) -> None:
    put_into(hub_cache, "owner/model", WHOLE)
    with pytest.raises(
        HubError, match=r"The model owner/model lacks model\.safetensors in the cache .* and HF_HUB_OFFLINE is set"
    ):
        hub.fetch_weights(hub.locate("owner/model"))


@pytest.mark.parametrize(
    ("files", "missing"),
    [
        ({}, ["config.json", "tokenizer.json", "preprocessor_config.json"]),
        ({"config.json": "{}", "tokenizer.model": ""}, ["preprocessor_config.json"]),
        ({**WHOLE, "tokenizer.json": "{}"}, []),
        ({"config.json": "{}", "tokenizer.json": "{}", "processor_config.json": "{}"}, ["preprocessor_config.json"]),
        ({"config.json": "{}", "tokenizer.json": "{}", "processor_config.json": '{"video_processor": {}}'}, []),
    ],
)
def test_a_description_is_complete_with_what_the_tool_needs(
    files: dict[str, str], missing: list[str], tmp_path: Path
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert hub.missing_description(tmp_path) == missing


def test_a_cached_adapter_is_used_without_the_network(hub_cache: Path) -> None:
    snapshot = put_into(hub_cache, "owner/lora", dict.fromkeys(hub.ADAPTER_FILES, "{}"))
    assert hub.locate_adapter("owner/lora") == Source(
        model="owner/lora", folder=snapshot, revision=COMMIT, kind="adapter"
    )
