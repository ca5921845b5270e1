"""Fills a tree of modules from safetensors files: each parameter is read once, from the mapped file to its device.

Tensors are found by their plain names, so that it doesn't matter which version of transformers has saved them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from torch import nn

from vllava_cli.engine.adapter import StoredTensor, plain, tensors_of
from vllava_cli.errors import CheckpointError

if TYPE_CHECKING:
    from vllava_cli.engine.modules.video_llava import VideoLlava

COMPUTED = re.compile(r"\.rotary_emb\.inv_freq$|\.embeddings\.position_ids$|_tower\.post_layernorm\.")
"""Tensors of a checkpoint that no answer needs: buffers of older versions, and the norm behind a tower's last layer."""
READERS = 4
"""Threads that read: one waits for the disk or copies while another converts."""


def fill(model: VideoLlava, folder: Path, *, dtype: torch.dtype, device: str, lacking: Collection[str]) -> None:
    """Reads all parameters of a model from a checkpoint's files; for the device "meta" it only checks them.

    The tensors of the `lacking` parts have no place in the model. Errors: CheckpointError for missing, surplus and
    resized tensors, before any of them is read; those of safetensors and torch.
    """
    stored = tensors_of(folder)
    empty = {plain(name): (name, parameter) for name, parameter in model.named_parameters()}
    known = {key: name for key, (name, _) in empty.items() if key in stored}
    others = stored.keys() - empty.keys()
    check_complete(
        folder,
        missing=[name for key, (name, _) in empty.items() if key not in stored],
        resized=[name for key, name in known.items() if tuple(empty[key][1].shape) != stored[key].shape],
        surplus=[
            stored[key].name
            for key in others
            if not COMPUTED.search(key) and not is_left_out(key, model.config.tower_layers, lacking)
        ],
    )
    if device != "meta":
        _read(model, {name: stored[key] for key, name in known.items()}, dtype, device)


def check_complete(folder: Path, *, missing: Iterable[str], resized: Iterable[str], surplus: Iterable[str]) -> None:
    """Raises CheckpointError if a tensor is missing, of another size or unexpected."""
    for what, found in (("missing", missing), ("of another size", resized), ("unexpected", surplus)):
        if names := sorted(found):
            raise CheckpointError(
                f"The weights in {folder} don't match its config: {len(names)} {what}, {names[0]} among them; copy its "
                "files from the original again, or, if a newer transformers has saved it, pip install -U transformers."
            )


def is_left_out(key: str, kept_layers: int, unneeded: Collection[str]) -> bool:
    """Returns True if a tensor belongs to a part that isn't needed, or to a tower's layer whose output isn't used."""
    found = re.search(r"(\w+_tower)\.(?:.*encoder\.layers\.(\d+)\.)?", key)
    if found is None:
        return any(part in key for part in unneeded) or ("language_model" in unneeded and "lm_head" in key)
    return found[1] in unneeded or (found[2] is not None and int(found[2]) >= kept_layers)


def _read(model: nn.Module, wanted: dict[str, StoredTensor], dtype: torch.dtype, device: str) -> None:
    with ExitStack() as opened, ThreadPoolExecutor(READERS) as pool:
        files: dict[Path, Any] = {
            file: opened.enter_context(safe_open(file, framework="pt"))
            for file in {each.file for each in wanted.values()}
        }

        def read(name: str) -> None:
            module, _, leaf = name.rpartition(".")
            value = files[wanted[name].file].get_tensor(wanted[name].name).to(device, dtype)
            setattr(model.get_submodule(module), leaf, nn.Parameter(value, requires_grad=False))

        list(pool.map(read, wanted))
