"""Weights come from safetensors, whole and exact, and nothing else gets in."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.checkpoints import edit_json, write_checkpoint
from tests.engine.engines import EXACT, FREE, conversation_about, engine_of, tokens_of
from tests.reference import read_reference
from tests.tensor_names import modern_name, published_name
from vllava_cli.engine.generate import Engine
from vllava_cli.engine.load import load
from vllava_cli.errors import CheckpointError
from vllava_cli.media.pixels import video_pixels
from vllava_cli.media.sample import sample
from vllava_cli.nouns import Answer, Framing, LoadPlan, MediaKind, Quantisation


def loaded(folder: Path, plan: LoadPlan = EXACT, kinds: tuple[MediaKind, ...] = ("video",)) -> Engine:
    return load(plan, tokens_of(folder), kinds)


def rewrite(folder: Path, change: dict[str, torch.Tensor | None]) -> None:
    """Replaces, adds or (None) removes tensors."""
    weights = load_file(folder / "model.safetensors") | {k: v for k, v in change.items() if v is not None}
    kept = {name: tensor for name, tensor in weights.items() if change.get(name, tensor) is not None}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def test_the_trimmed_tower_gives_the_same_bits(small_checkpoint: Path, clip: Path) -> None:
    engine = loaded(small_checkpoint)
    assert engine.model.config.vision_config.num_hidden_layers == 2
    conversation = conversation_about(clip)
    made = engine.sight.features(conversation.media[0], "crop")
    whole = read_reference(small_checkpoint).model
    with torch.no_grad():
        pixels = video_pixels(conversation.media[0], engine.tokens.checkpoint.video_recipe)
        wanted = whole.model.get_video_features(pixels).pooler_output.flatten(0, 1)
    assert torch.equal(made, wanted)


@pytest.mark.parametrize(
    ("kinds", "left_out"), [(("video",), "image"), (("image",), "video"), (("video", "image"), "")]
)
def test_a_tower_that_isnt_needed_is_neither_made_nor_read(
    kinds: tuple[MediaKind, ...], left_out: str, small_checkpoint: Path, tmp_path: Path
) -> None:
    """Its tensors may be missing altogether then."""
    folder = shutil.copytree(small_checkpoint, tmp_path / "partly")
    tensors = load_file(folder / "model.safetensors")
    kept = {name: value for name, value in tensors.items() if not left_out or f"{left_out}_tower" not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    model = loaded(folder, kinds=kinds).model
    for kind in ("video", "image"):
        assert (getattr(model.model, f"{kind}_tower") is None) == (kind == left_out)
    assert not [name for name, _ in model.named_parameters() if left_out and f"{left_out}_tower" in name]


@pytest.mark.parametrize("quantisation", [None, "4bit"])
@pytest.mark.parametrize("kind", ["video", "image"])
def test_a_tower_comes_when_it_is_needed_after_all(
    kind: MediaKind, quantisation: Quantisation | None, small_checkpoint: Path, clip: Path
) -> None:
    if quantisation:
        pytest.importorskip("bitsandbytes")
    plan = replace(EXACT, quantisation=quantisation)
    other: MediaKind = "image" if kind == "video" else "video"
    engine, whole = loaded(small_checkpoint, plan, (other,)), loaded(small_checkpoint, plan, ("video", "image"))
    video = sample(clip, Framing())
    media = (
        video
        if kind == "video"
        else replace(video, clip=replace(video.clip, kind="image"), pixels=video.pixels[:1], times_s=(0.0,))
    )
    assert getattr(engine.model.model, f"{kind}_tower") is None
    assert torch.equal(engine.sight.features(media, "crop"), whole.sight.features(media, "crop"))
    brought = getattr(engine.model.model, f"{kind}_tower")
    assert not brought.training
    theirs = getattr(whole.model.model, f"{kind}_tower").state_dict()
    assert brought.state_dict().keys() == theirs.keys()
    engine.sight.forget()
    engine.sight.features(media, "crop")
    assert getattr(engine.model.model, f"{kind}_tower") is brought


def test_a_tower_that_comes_later_is_checked_too(tmp_path: Path, clip: Path) -> None:
    folder = write_checkpoint(tmp_path)
    names = [name for name in load_file(folder / "model.safetensors") if "video_tower" in name and "layers.0" in name]
    rewrite(folder, {names[0]: None})
    engine = loaded(folder, kinds=("image",))
    with pytest.raises(CheckpointError, match=r"don't match its config: 1 missing, "):
        engine.sight.features(sample(clip, Framing()), "crop")
    assert engine.model.model.video_tower is None


@pytest.mark.parametrize(("dtype", "wanted"), [("bfloat16", torch.bfloat16), ("float32", torch.float32)])
def test_weights_have_the_planned_type(dtype: str, wanted: torch.dtype, small_checkpoint: Path, clip: Path) -> None:
    engine = loaded(small_checkpoint, replace(EXACT, dtype=dtype))  # type: ignore[arg-type]
    assert {parameter.dtype for parameter in engine.model.parameters()} == {wanted}
    assert Answer.of(engine.stream(conversation_about(clip), "what", FREE)).stats.new_tokens == 24


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_planned_attention_is_used(attention: str, small_checkpoint: Path, clip: Path) -> None:
    engine = loaded(small_checkpoint, replace(EXACT, attention=attention))  # type: ignore[arg-type]
    assert engine.model.config._attn_implementation == attention
    exact = Answer.of(loaded(small_checkpoint).stream(conversation_about(clip), "what", FREE))
    assert Answer.of(engine.stream(conversation_about(clip), "what", FREE)).text == exact.text


@pytest.mark.parametrize("quantisation", ["4bit", "8bit"])
def test_only_the_language_matrices_are_quantised(quantisation: str, small_checkpoint: Path, clip: Path) -> None:
    pytest.importorskip("bitsandbytes")
    engine = loaded(small_checkpoint, replace(EXACT, quantisation=quantisation))  # type: ignore[arg-type]
    small = [name for name, value in engine.model.named_parameters() if value.dtype in (torch.uint8, torch.int8)]
    assert len(small) == 2 * 7
    assert all(re.match(r"model\.language_model\.layers\.\d\.(self_attn|mlp)\.", name) for name in small)
    assert Answer.of(engine.stream(conversation_about(clip), "what", FREE)).stats.new_tokens == 24


def test_a_missing_tensor_is_an_error_not_a_random_one(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path)
    name = next(
        name for name in load_file(folder / "model.safetensors") if "video_tower" in name and "layers.0" in name
    )
    rewrite(folder, {name: None})
    with pytest.raises(CheckpointError) as caught:
        loaded(folder)
    assert "don't match its config: 1 missing, " in str(caught.value)


def test_a_surplus_tensor_is_an_error(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path)
    rewrite(folder, {"model.language_model.layers.9.mlp.up_proj.weight": torch.zeros(2, 2)})
    with pytest.raises(CheckpointError) as caught:
        loaded(folder)
    assert "don't match its config: 1 unexpected, " in str(caught.value)


def test_a_tensor_of_another_size_is_an_error(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path)
    rewrite(folder, {"language_model.lm_head.weight": torch.zeros(3, 3)})
    with pytest.raises(CheckpointError) as caught:
        loaded(folder)
    assert "don't match its config: 1 of another size, lm_head.weight among them" in str(caught.value)


def test_shards_are_loaded(tmp_path: Path, small_checkpoint: Path, clip: Path) -> None:
    folder = write_checkpoint(tmp_path)
    weights = load_file(folder / "model.safetensors")
    names = sorted(weights)
    half = len(names) // 2
    parts = {"model-00001-of-00002.safetensors": names[:half], "model-00002-of-00002.safetensors": names[half:]}
    for part, inside in parts.items():
        save_file({name: weights[name] for name in inside}, folder / part, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: part for part, inside in parts.items() for name in inside}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()
    sharded = Answer.of(loaded(folder).stream(conversation_about(clip), "what", FREE))
    assert sharded.text == Answer.of(loaded(small_checkpoint).stream(conversation_about(clip), "what", FREE)).text


@pytest.mark.parametrize("naming", ["published", "modern"])
def test_either_naming_of_the_weights_is_loaded(naming: str, tmp_path: Path, clip: Path) -> None:
    """The hub's checkpoint was saved before the towers and the language model moved below "model."."""
    folder = write_checkpoint(tmp_path)
    before = Answer.of(loaded(folder).stream(conversation_about(clip), "what", FREE)).text
    weights = load_file(folder / "model.safetensors")
    rename = modern_name if naming == "modern" else published_name
    renamed = {rename(modern_name(name)): tensor for name, tensor in weights.items()}
    wanted = {
        "modern": {"lm_head.weight", "model.video_tower.encoder.layers.0.mlp.fc1.weight"},
        "published": {"language_model.lm_head.weight", "video_tower.vision_model.encoder.layers.0.mlp.fc1.weight"},
    }
    assert wanted[naming] <= set(renamed)
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})
    assert Answer.of(loaded(folder).stream(conversation_about(clip), "what", FREE)).text == before


def test_code_beside_the_weights_is_never_run(tmp_path: Path, clip: Path) -> None:
    folder = write_checkpoint(tmp_path / "model")
    trap = tmp_path / "ran"
    (folder / "modeling_trap.py").write_text(f"open({str(trap)!r}, 'w')\nclass Trap: pass\n")
    auto_map = {
        "AutoModel": "modeling_trap.Trap",
        "AutoConfig": "modeling_trap.Trap",
        "AutoTokenizer": ["modeling_trap.Trap", None],
    }
    edit_json(folder / "config.json", auto_map=auto_map)
    edit_json(folder / "tokenizer_config.json", auto_map=auto_map)
    edit_json(folder / "preprocessor_config.json", auto_map={"AutoImageProcessor": "modeling_trap.Trap"})
    engine = engine_of(folder)
    Answer.of(engine.stream(conversation_about(clip), "what", FREE))
    assert not trap.exists()


def test_an_attention_kernel_named_by_the_config_is_not_fetched(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path)
    edit_json(folder / "config.json", attn_implementation="kernels-community/flash-attn", _attn_implementation="x/y")
    assert loaded(folder).model.config._attn_implementation == "sdpa"
