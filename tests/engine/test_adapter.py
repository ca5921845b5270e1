"""A LoRA adapter is merged as peft would, whatever trained it, and one that can't be merged is refused by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.adapters import merged, write_adapter
from tests.checkpoints import edit_json
from tests.engine.engines import EXACT, conversation_about, generated, new_ids
from tests.published import modern_name, published_name
from tests.reference import read_reference
from tests.refusals import refused
from vllava_cli.commands import doctor
from vllava_cli.engine.adapter import described, foreseen, locate
from vllava_cli.engine.checkpoint import describe
from vllava_cli.engine.generate import Engine
from vllava_cli.engine.load import load, load_documented
from vllava_cli.engine.tokens import Tokens, read_tokens
from vllava_cli.engine.weight_cache import WeightCache, all_cached
from vllava_cli.errors import CheckpointError, UsageError
from vllava_cli.media.sample import sample
from vllava_cli.nouns import (
    Framing,
    LoadPlan,
    Log,
    MediaKind,
    Quantisation,
    Source,
    Wishes,
)

pytest.importorskip("peft")

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
PREFIX = "base_model.model."
ASKED = "what is in this clip"


def tokens_of(base: Path, adapter: Path | None) -> Tokens:
    found = described(Source(model=str(adapter), folder=adapter)) if adapter else None
    return read_tokens(describe(Source(model=str(base), folder=base, adapter=found)))


def loaded(
    base: Path, adapter: Path | None, plan: LoadPlan = EXACT, kinds: tuple[MediaKind, ...] = ("video", "image")
) -> Engine:
    return load(plan, tokens_of(base, adapter), kinds)


def states(model: Any) -> dict[str, torch.Tensor]:
    return dict(model.state_dict())


def are_equal(engine: Engine, model: Any) -> bool:
    """Whether all that our engine loads of a model has these very values."""
    wanted = states(model)
    return all(torch.equal(value, wanted[name]) for name, value in states(engine.model).items())


@pytest.fixture(scope="module")
def adapter(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_adapter(tmp_path_factory.mktemp("adapters") / "plain", published)


@pytest.fixture
def copy(adapter: Path, tmp_path: Path) -> Path:
    """An adapter to be spoiled."""
    return shutil.copytree(adapter, tmp_path / "copy")


@pytest.fixture(scope="module")
def trained_dora(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_adapter(tmp_path_factory.mktemp("adapters") / "dora", published, use_dora=True)


TRAINED: dict[str, dict[str, Any]] = {
    "plain": {},
    "DoRA": {"use_dora": True},
    "rank-stabilised": {"use_rslora": True},
    "everywhere": {"target_modules": ["q_proj", "fc1", "linear_2", "lm_head", "embed_tokens", "patch_embedding"]},
    "whole modules": {"modules_to_save": ["multi_modal_projector", "lm_head"]},
    "biases of its own": {"target_modules": ["fc1"], "lora_bias": True},
    "all biases": {"bias": "all"},
    "patterns": {
        "rank_pattern": {"layers.1.self_attn.q_proj": 2},
        "alpha_pattern": {r"^model.language_model.layers.0.mlp.down_proj": 3, r"self_attn.v_proj": 5},
    },
}


@pytest.mark.parametrize("name", TRAINED)
def test_answers_equal_those_of_peft_and_generate(name: str, published: Path, clip: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path, published, **TRAINED[name])
    engine, reference = loaded(published, adapter), read_reference(published)
    theirs = merged(published, adapter)
    assert are_equal(engine, theirs)
    base = generated(engine, reference, ASKED, clip)
    reference = replace(reference, model=theirs)
    made = new_ids(engine, conversation_about(clip), ASKED)
    assert made == generated(engine, reference, ASKED, clip)
    assert made != base


def test_names_of_any_version_of_transformers_fit(published: Path, adapter: Path, copy: Path) -> None:
    """Up to transformers 4.51 modules had the names that the published tensors have."""
    names = {
        name: PREFIX + published_name(modern_name(name.removeprefix(PREFIX))) for name in load_file(adapter / WEIGHTS)
    }
    assert f"{PREFIX}language_model.model.layers.0.self_attn.q_proj.lora_A.weight" in names.values()
    assert f"{PREFIX}video_tower.vision_model.encoder.layers.0.self_attn.q_proj.lora_B.weight" in names.values()
    save_file({names[name]: value for name, value in load_file(copy / WEIGHTS).items()}, copy / WEIGHTS)
    assert are_equal(loaded(published, copy), merged(published, adapter))


def test_a_tower_that_comes_later_is_changed_too(published: Path, adapter: Path, clip: Path) -> None:
    video = sample(clip, Framing())
    late, whole = loaded(published, adapter, kinds=("image",)), loaded(published, adapter)
    assert late.model.model.video_tower is None
    assert torch.equal(late.vision.features(video, "crop"), whole.vision.features(video, "crop"))
    assert not torch.equal(whole.vision.features(video, "crop"), loaded(published, None).vision.features(video, "crop"))


@pytest.mark.parametrize("quantisation", ["4bit", "8bit"])
def test_weights_are_merged_first_and_quantised_then(
    quantisation: Quantisation, published: Path, adapter: Path, tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    plan = replace(EXACT, quantisation=quantisation)
    folder = shutil.copytree(published, tmp_path / "merged", ignore=shutil.ignore_patterns("*.safetensors*"))
    merged(published, adapter).save_pretrained(folder)
    assert are_equal(loaded(published, adapter, plan), loaded(folder, None, plan).model)


def test_quantised_weights_are_kept_for_each_adapter(published: Path, adapter: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    details: list[str] = []
    store = WeightCache(folder=tmp_path, log=Log(notice=details.append, detail=details.append), least_bytes=0)

    def start(adapter: Path | None) -> Engine:
        details.clear()
        return load(replace(EXACT, quantisation="4bit"), tokens_of(published, adapter), ("video",), cache=store)

    first = start(adapter)
    start(None)
    assert details[0].startswith("vllava: kept the 4bit weights")
    assert [kept.model for kept in all_cached(tmp_path)] == [str(published), f"{published} + {adapter}"]
    again = start(adapter)
    assert details[0].startswith("weights: read from the weight cache")
    assert are_equal(again, first.model)


def test_the_snippet_of_bench_has_the_adapter(published: Path, adapter: Path) -> None:
    snippet = load_documented(EXACT, tokens_of(published, adapter).checkpoint)
    assert are_equal(loaded(published, adapter), snippet)


def test_another_alpha_is_another_adapter(adapter: Path, copy: Path) -> None:
    before = described(Source(model="a", folder=adapter)).sha256
    edit_json(copy / CONFIG, lora_alpha=1)
    assert described(Source(model="a", folder=copy)).sha256 != before


DESCRIBED: dict[str, tuple[dict[str, Any], str]] = {
    "another method": ({"peft_type": "IA3"}, "has peft_type IA3: vllava merges plain LoRA and DoRA for Video-LLaVA."),
    "on demand only": ({"alora_invocation_tokens": [1]}, "has alora_invocation_tokens: vllava merges plain LoRA"),
    "parameters": ({"target_parameters": ["weight"]}, "has target_parameters: vllava merges plain LoRA"),
    "another start": ({"init_lora_weights": "pissa_niter_4"}, "has init_lora_weights pissa_niter_4 (peft's path_init"),
    "another class": (
        {"auto_mapping": {"base_model_class": "LlavaForConditionalGeneration"}},
        "has base_model_class LlavaForConditionalGeneration: ",
    ),
    "nonsense": ({"auto_mapping": [1], "peft_type": {}}, "has peft_type {}: "),
}


@pytest.mark.parametrize("name", DESCRIBED)
def test_what_cannot_be_merged_is_refused_by_name(name: str, copy: Path) -> None:
    changes, message = DESCRIBED[name]
    edit_json(copy / CONFIG, **changes)
    said = refused(CheckpointError, described, Source(model="my/adapter", folder=copy))
    assert f"The adapter my/adapter {message}" in said


MODULE = "language_model.layers.0.self_attn.q_proj"
FIRST = f"{PREFIX}model.{MODULE}.lora_A.weight"
Tensors = dict[str, torch.Tensor]


def moved(old: str, new: str) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.update({FIRST.replace(old, new): tensors.pop(FIRST)})


def cut(part: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Tensors], object]:
    name = FIRST.replace("lora_A.weight", part)
    return lambda tensors: tensors.update({name: change(tensors[name]).contiguous()})


def lone(part: str) -> Callable[[Tensors], object]:
    def change(tensors: Tensors) -> None:
        tensors.clear()
        tensors[FIRST.replace("lora_A.weight", part)] = torch.ones(64)

    return change


NUMBER = "must be a number. Replace it with the o"
LOST = "1 of its 54 tensors have no place there, base_model.model.model.la"
UNFIT: dict[str, tuple[Callable[[Tensors], object] | dict[str, Any], str]] = {
    "another architecture": (moved("language_model.", ""), LOST),
    "another layer": (moved("layers.0", "layers.9"), LOST),
    "unknown": (moved("lora_A", "lora_Q"), LOST),
    "half": (lambda tensors: tensors.pop(FIRST), f"it lacks lora_A.weight of {MODULE}"),
    "no magnitudes": (
        lambda tensors: tensors.pop(FIRST.replace("lora_A.weight", "lora_magnitude_vector")),
        f"it lacks lora_magnitude_vector of {MODULE}",
    ),
    "lone magnitudes": (lone("lora_magnitude_vector"), f"it lacks lora_A.weight of {MODULE}"),
    "a lone bias": (lone("lora_B.bias"), f"it lacks lora_A.weight of {MODULE}"),
    "of a wider model": (cut("lora_A.weight", lambda a: a.repeat(1, 2)), " is [4, 128] and must be [4, 64]"),
    "a row less": (
        cut("lora_A.weight", lambda a: a[:3]),
        " is [64, 4] and must be [64, 3]",
    ),
    "no rows": (cut("lora_A.weight", lambda a: a[:0]), "its lora_A.weight of "),
    "no dimensions": (cut("lora_A.weight", lambda a: a.sum()), " is [] and must be [1, 64]"),
    "a column less": (cut("lora_B.weight", lambda b: b[:, :3]), " is [64, 3] and must be [64, 4]"),
    "magnitudes of others": (cut("lora_magnitude_vector", lambda m: m[:3]), " is [3] and must be [64]"),
    "magnitudes in rows": (cut("lora_magnitude_vector", lambda m: m[:, None]), " is [64, 1] and must be [64]"),
    "alpha": ({"lora_alpha": "much"}, f"{CONFIG} can't be used: lora_alpha is 'much' and {NUMBER}"),
    "an alpha that is true": ({"lora_alpha": True}, f"lora_alpha is True and {NUMBER}"),
    "one of its alphas": ({"alpha_pattern": {"q_proj": True}}, f"lora_alpha is True and {NUMBER}"),
    "a switch in words": ({"use_rslora": "no"}, f"{CONFIG} can't be used: use_rslora is 'no' and must be true or f"),
    "wildcards": ({"alpha_pattern": {"(a+)+": 1}}, f"{CONFIG} has alpha_pattern '(a+)+': give names without wildca"),
}


@pytest.mark.parametrize("name", UNFIT)
def test_what_does_not_fit_is_refused(name: str, published: Path, trained_dora: Path, tmp_path: Path) -> None:
    change, message = UNFIT[name]
    folder = shutil.copytree(trained_dora, tmp_path / "copy")
    if isinstance(change, dict):
        edit_json(folder / CONFIG, **change)
    else:
        change(tensors := load_file(folder / WEIGHTS))
        save_file(tensors, folder / WEIGHTS)
        message = f"The adapter {folder} doesn't fit the model {published}: {message}" if message[0] != " " else message
    assert message in refusal(published, folder)


def refusal(base: Path, adapter: Path) -> str:
    """Why an adapter isn't merged; the doctor says the same."""
    with pytest.raises(CheckpointError) as caught:
        loaded(base, adapter)
    wishes = Wishes(model=str(base), adapter=str(adapter), device="cpu", precision="fp32")
    assert doctor.examine(wishes).fault == str(caught.value)
    return str(caught.value)


def test_numbers_that_are_none_are_refused(published: Path, copy: Path) -> None:
    tensors = load_file(copy / WEIGHTS)
    save_file(tensors | {FIRST: tensors[FIRST] * torch.nan}, copy / WEIGHTS)
    with pytest.raises(CheckpointError, match=r"The adapter .* can't be merged: NaNs detected in the merged weights"):
        loaded(published, copy)


def test_a_file_that_is_no_safetensors_file_is_a_sentence(published: Path, copy: Path) -> None:
    for content in ((copy / WEIGHTS).read_bytes()[:-1], b"\xff" * 100):
        (copy / WEIGHTS).write_bytes(content)
        said = refusal(published, copy)
        assert said.startswith(
            f"The file {copy / WEIGHTS} can't be used: it is not a safetensors file, or it is damaged ("
        )
        assert said.endswith("). Replace it with the original adapter's.")


def test_pickled_adapters_are_refused(copy: Path) -> None:
    (copy / WEIGHTS).rename(copy / "adapter_model.bin")
    assert refused(CheckpointError, described, Source(model="my/adapter", folder=copy)) == (
        "The adapter my/adapter has its weights in adapter_model.bin, and vllava reads them from safetensors files "
        "only: load it with peft if you trust it, and save it with save_pretrained."
    )


def test_a_model_is_no_adapter(published: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"my/model is a model, not an adapter: give it with --model\."):
        described(Source(model="my/model", folder=published))
    with pytest.raises(CheckpointError, match=r"nothing is not an adapter: it has no adapter_config\.json\."):
        described(Source(model="nothing", folder=tmp_path))


def test_without_peft_there_is_a_sentence_that_says_how_to_have_it(
    adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vllava_cli.engine.adapter.util.find_spec", lambda _: None)
    said = refused(UsageError, described, Source(model="a", folder=adapter))
    assert said == "--adapter needs peft, which isn't installed: pip install 'vllava[adapter]'."


def test_an_adapter_of_another_base_is_told(published: Path, copy: Path) -> None:
    heard: list[str] = []
    wishes = Wishes(model=str(published), adapter=str(copy))
    edit_json(copy / CONFIG, base_model_name_or_path=f"somewhere/{published.name}")
    assert locate(wishes, Log(notice=heard.append)).adapter == described(Source(model=str(copy), folder=copy))
    assert heard == []
    edit_json(copy / CONFIG, base_model_name_or_path="other/base")
    assert foreseen(wishes, Log(notice=heard.append)) == locate(wishes, Log(notice=heard.append))
    assert (
        heard == [f"vllava: warning: the adapter {copy} was trained on other/base, and the model is {published}."] * 2
    )


def test_weights_beside_an_adapters_config_are_taken_as_merged(published: Path, adapter: Path, tmp_path: Path) -> None:
    """from_pretrained would put the adapter on top of them."""
    both = shutil.copytree(published, tmp_path / "both")
    for path in adapter.iterdir():
        shutil.copy(path, both)
    heard: list[str] = []
    source = locate(Wishes(model=str(both)), Log(notice=heard.append))
    assert heard == [
        f"vllava: {both} has an adapter_config.json beside its weights, which are taken as merged already; if they "
        f"aren't, add --adapter {both}."
    ]
    plain = load(EXACT, read_tokens(describe(source)), ("video", "image"))
    assert are_equal(plain, loaded(published, None).model)
    assert are_equal(loaded(both, both), merged(published, adapter))
    assert json.loads((both / CONFIG).read_text())["peft_type"] == "LORA"
