"""`vllava doctor` on this machine, whatever it is."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

from tests.commands.shell import Shell, chapters
from tests.engine.keepsakes import PLAN, made, put
from tests.hub_server import put_into
from vllava_cli.commands import doctor
from vllava_cli.nouns import Wishes

Run = Callable[..., Shell]


def test_a_model_in_a_folder_is_planned_with_reasons(shell: Run, small_checkpoint: Path, tmp_path: Path) -> None:
    kept = put(tmp_path / "my cache" / "quantised", made(small_checkpoint, PLAN))
    environment = {"VLLAVA_CACHE": str(tmp_path / "my cache")}
    done = shell("doctor", "--model", small_checkpoint, "--device", "cpu", environment=environment)
    assert (done.code, done.err) == (0, "")
    found = chapters(done.out)
    assert list(found) == ["machine", "versions", "model", "kept", "plan for videos", "faster"]
    assert found["kept"] == [f"4bit  a/model, 0.0 MB; rm -r '{kept}' removes it."]
    assert [row.split()[0] for row in found["plan for videos"]] == [
        "device",
        "dtype",
        "quantisation",
        "attention",
        "threads",
    ]
    assert all(row.endswith(".") for row in found["plan for videos"])
    assert any(row.startswith("torch ") for row in found["versions"])
    assert f"in {small_checkpoint}" in found["model"][1]


def test_the_default_model_is_planned_before_it_is_fetched(shell: Run, tmp_path: Path) -> None:
    done = shell("doctor")
    found = chapters(done.out)
    assert done.err == ""
    assert found["model"][0] == "name   LanguageBind/Video-LLaVA-7B-hf"
    assert found["model"][1].startswith("files  not here yet: about 13.")
    assert found["model"][1].endswith(f"to fetch into {tmp_path}/.cache/huggingface/hub")
    assert "plan for videos" in found or "fault" in found
    is_for_cpu = found.get("plan for videos", ["device gpu"])[0].split()[1] == "cpu:"
    forms = found.get("forms on this CPU", [])
    assert [row.split()[0] for row in forms] == ["fp16", "8bit", "4bit"] * is_for_cpu
    assert all(re.search(r"GiB, (more than is free|first word in about .*, then .*)\.$", row) for row in forms)


def test_json_holds_the_same(shell: Run, small_checkpoint: Path, tmp_path: Path) -> None:
    kept = put(tmp_path / ".cache" / "vllava" / "quantised", made(small_checkpoint, PLAN))
    report = json.loads(shell("doctor", "--json", "--model", small_checkpoint).out)
    assert report["kept"] == [{"folder": str(kept), "model": "a/model", "precision": "4bit", "bytes": 5}]
    assert report["plan"]["device_reason"].endswith(".")
    assert report["is_here"] is True
    assert report["model_bytes"] == (small_checkpoint / "model.safetensors").stat().st_size
    assert report["hardware"]["ram_total_bytes"] > 0
    assert report["fault"] is None


def test_an_unknown_model_is_a_fault_beside_the_machine(shell: Run) -> None:
    done = shell("doctor", "--model", "owner/model")
    assert done.code == 1
    found = chapters(done.out)
    assert "machine" in found
    assert found["fault"][0].startswith("The model owner/model is not in the cache")


def test_a_model_that_is_here_in_part_is_told_with_what_is_missing(hub_cache: Path) -> None:
    for model in ("LanguageBind/Video-LLaVA-7B-hf", "owner/model"):
        put_into(hub_cache, model, {"config.json": "{}"})
    default = doctor.examine(Wishes(model="LanguageBind/Video-LLaVA-7B-hf"))
    assert (default.is_here, default.missing) == (False, ("tokenizer.json", "preprocessor_config.json"))
    assert doctor.examine(Wishes(model="owner/model")).fault == (
        f"The model owner/model lacks tokenizer.json in the cache {hub_cache}: run hf download owner/model, then "
        "vllava doctor again."
    )
