"""Weights come from safetensors, whole and exact, and nothing else gets in."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.overrides import TorchFunctionMode

from tests.checkpoints import edit_json, write_checkpoint
from tests.engine.engines import EXACT, FREE, ask, conversation_about, engine_of, tokens_of
from tests.reference import read_reference
from vllava_cli.engine.generate import Engine
from vllava_cli.engine.load import THREADS_SETTING, load
from vllava_cli.errors import CheckpointError
from vllava_cli.media.pixels import video_pixels
from vllava_cli.media.sample import sample
from vllava_cli.nouns import Framing, LoadPlan, MediaKind, Quantisation


def loaded(folder: Path, plan: LoadPlan = EXACT, kinds: tuple[MediaKind, ...] = ("video",)) -> Engine:
    return load(plan, tokens_of(folder), kinds)


class Functions(TorchFunctionMode):
    """Notes the names of the functions of torch that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_function__(self, function: Any, _types: Any, words: Any = (), named: Any = None) -> Any:
        self.names.add(function.__name__)
        return function(*words, **named or {})


def rewrite(folder: Path, change: dict[str, torch.Tensor | None]) -> None:
    """Replaces, adds or (None) removes tensors."""
    weights = load_file(folder / "model.safetensors") | {k: v for k, v in change.items() if v is not None}
    kept = {name: tensor for name, tensor in weights.items() if change.get(name, tensor) is not None}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def test_the_trimmed_tower_gives_the_same_bits(small_checkpoint: Path, clip: Path) -> None:
    engine = loaded(small_checkpoint)
    assert len(engine.model.model.video_tower.encoder.layers) == 2
    conversation = conversation_about(clip)
    made = engine.vision.features(conversation.media[0], "crop")
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
    assert torch.equal(engine.vision.features(media, "crop"), whole.vision.features(media, "crop"))
    brought = getattr(engine.model.model, f"{kind}_tower")
    assert not brought.training
    theirs = getattr(whole.model.model, f"{kind}_tower").state_dict()
    assert brought.state_dict().keys() == theirs.keys()
    engine.vision.forget()
    engine.vision.features(media, "crop")
    assert getattr(engine.model.model, f"{kind}_tower") is brought


def test_a_tower_that_comes_later_is_checked_too(tmp_path: Path, clip: Path) -> None:
    folder = write_checkpoint(tmp_path)
    names = [name for name in load_file(folder / "model.safetensors") if "video_tower" in name and "layers.0" in name]
    rewrite(folder, {names[0]: None})
    engine = loaded(folder, kinds=("image",))
    with pytest.raises(CheckpointError, match=r"don't match its config: 1 missing, "):
        engine.vision.features(sample(clip, Framing()), "crop")
    assert engine.model.model.video_tower is None


@pytest.mark.parametrize(("dtype", "wanted"), [("bfloat16", torch.bfloat16), ("float32", torch.float32)])
def test_weights_have_the_planned_type(dtype: str, wanted: torch.dtype, small_checkpoint: Path, clip: Path) -> None:
    engine = loaded(small_checkpoint, replace(EXACT, dtype=dtype))  # type: ignore[arg-type]
    assert {parameter.dtype for parameter in engine.model.parameters()} == {wanted}
    assert ask(engine, conversation_about(clip), "what", FREE).stats.new_tokens == 24


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_planned_attention_is_used(attention: str, small_checkpoint: Path, clip: Path) -> None:
    engine = loaded(small_checkpoint, replace(EXACT, attention=attention))  # type: ignore[arg-type]
    exact = ask(loaded(small_checkpoint), conversation_about(clip), "what", FREE)
    with Functions() as called:
        assert ask(engine, conversation_about(clip), "what", FREE).text == exact.text
    assert ("scaled_dot_product_attention" in called.names) == (attention == "sdpa")


@pytest.mark.parametrize("quantisation", ["4bit", "8bit"])
def test_only_the_language_matrices_are_quantised(quantisation: str, small_checkpoint: Path, clip: Path) -> None:
    pytest.importorskip("bitsandbytes")
    engine = loaded(small_checkpoint, replace(EXACT, quantisation=quantisation))  # type: ignore[arg-type]
    small = [name for name, value in engine.model.named_parameters() if value.dtype in (torch.uint8, torch.int8)]
    assert len(small) == 2 * 7
    assert all(re.match(r"model\.language_model\.layers\.\d\.(self_attn|mlp)\.", name) for name in small)
    assert ask(engine, conversation_about(clip), "what", FREE).stats.new_tokens == 24


@pytest.mark.parametrize(
    ("name", "tensor", "fault"),
    [
        ("video_tower.encoder.layers.0.mlp.fc1.weight", None, "1 missing, "),
        ("model.language_model.layers.9.mlp.up_proj.weight", torch.zeros(2, 2), "1 unexpected, "),
        ("language_model.lm_head.weight", torch.zeros(3, 3), "1 of another size, lm_head.weight among them"),
    ],
)
def test_a_gap_is_an_error_and_no_random_tensor(
    name: str, tensor: torch.Tensor | None, fault: str, tmp_path: Path
) -> None:
    folder = write_checkpoint(tmp_path)
    rewrite(folder, {name: tensor})
    with pytest.raises(CheckpointError, match=f"don't match its config: {fault}"):
        loaded(folder)


def test_two_tensors_for_one_place_are_an_error(tmp_path: Path) -> None:
    """Which of them is meant can't be known."""
    folder = write_checkpoint(tmp_path)
    head = load_file(folder / "model.safetensors")["language_model.lm_head.weight"]
    rewrite(folder, {"lm_head.weight": head + 1})
    with pytest.raises(CheckpointError, match=r"model\.safetensors can't be used: .*lm_head\.weight.* of one place\."):
        loaded(folder)


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
    ask(engine, conversation_about(clip), "what", FREE)
    assert not trap.exists()


def test_an_attention_kernel_named_by_the_config_is_not_fetched(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path)
    edit_json(folder / "config.json", attn_implementation="kernels-community/flash-attn", _attn_implementation="x/y")
    assert loaded(folder).model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize(("setting", "threads", "wanted"), [(None, 3, 3), (None, None, 2), ("2", 5, 2)])
def test_the_cpu_computes_with_as_many_threads_as_the_plan_or_the_user_says(
    setting: str | None, threads: int | None, wanted: int, demo_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    monkeypatch.delenv(THREADS_SETTING, raising=False)
    if setting:
        monkeypatch.setenv(THREADS_SETTING, setting)
    load(replace(demo_engine.plan, threads=threads), demo_engine.tokens, {"video"})
    found = torch.get_num_threads()
    torch.set_num_threads(before)
    assert found == wanted
