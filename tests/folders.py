"""Model folders that lack what a model needs, and what is said of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file

from tests.checkpoints import edit_json

INDEX = "model.safetensors.index.json"


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    """All of them, out of their files."""
    found: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= load_file(path)
        path.unlink()
    (folder / INDEX).unlink(missing_ok=True)
    return found


def without(*names: str) -> Callable[[Path], object]:
    return lambda folder: [(folder / name).unlink() for name in names]


def pickled(folder: Path) -> None:
    tensors_of(folder)
    (folder / "pytorch_model.bin").write_bytes(b"never opened")
    (folder / "training_args.bin").write_bytes(b"never opened")


def adapter(folder: Path, base: str | None = "LanguageBind/Video-LLaVA-7B-hf") -> None:
    for path in folder.iterdir():
        path.unlink()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": base}))
    (folder / "adapter_model.safetensors").write_bytes(b"")


def of_a_trainer(folder: Path) -> None:
    without("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json")(folder)
    (folder / "training_args.bin").write_bytes(b"")


def named(folder: Path) -> None:
    of_a_trainer(folder)
    edit_json(folder / "config.json", _name_or_path="my/base")


LACKS = "The model folder FOLDER lacks"
COPY = "copy what is missing from the base checkpoint"
AGAIN = (
    "copy the weights there again from where they were saved, or take the base checkpoint, which it was trained from."
)
LACKING: dict[str, tuple[Callable[[Path], object], str]] = {
    "a Trainer's folder": (
        of_a_trainer,
        f"{LACKS} tokenizer.json and preprocessor_config.json: {COPY}, which it was trained from.",
    ),
    "a Trainer's folder that names its base": (
        named,
        f"{LACKS} tokenizer.json and preprocessor_config.json: {COPY} my/base.",
    ),
    "no preprocessor file": (
        without("preprocessor_config.json"),
        f"{LACKS} preprocessor_config.json: {COPY}, which it was trained from.",
    ),
    "tokenizer.model only": (
        lambda folder: (folder / "tokenizer.json").rename(folder / "tokenizer.model"),
        f"{LACKS} tokenizer.json (tokenizer.model alone isn't enough): {COPY}, which it was trained from.",
    ),
    "pickled weights": (
        pickled,
        "The model folder FOLDER has its weights in pytorch_model.bin, and vllava reads them from safetensors files "
        "only: load it with transformers if you trust it, and save it with save_pretrained.",
    ),
    "no weights": (
        tensors_of,
        f"{LACKS} model.safetensors: {AGAIN}",
    ),
    "a shard that is gone": (
        without("model-00002-of-00003.safetensors"),
        f"{LACKS} model-00002-of-00003.safetensors: {AGAIN}",
    ),
    "an index that is gone": (
        without(INDEX),
        f"{LACKS} {INDEX}: {AGAIN}",
    ),
    "an adapter": (
        adapter,
        "FOLDER is an adapter: give --model LanguageBind/Video-LLaVA-7B-hf --adapter FOLDER.",
    ),
    "an adapter of nobody knows what": (
        lambda folder: adapter(folder, None),
        "FOLDER is an adapter: give --model BASE --adapter FOLDER.",
    ),
    "an empty folder": (
        lambda folder: [path.unlink() for path in folder.iterdir()],
        "The folder FOLDER is not a checkpoint: it has no config.json.",
    ),
}
