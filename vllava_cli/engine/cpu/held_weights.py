"""Makes a loaded language model hold its weights in 16, 8 or 4 bits on the CPU; quantised weights are kept in files.

Weights in 16 bits stay mapped from the checkpoint's files as they are, and so do quantised ones that were kept: nothing
is converted or copied, processes share them, and the system may drop them from memory and read them again.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from vllava_cli.engine.adapter import tensors_of
from vllava_cli.engine.cpu.linear import CpuLinear, ExactLinear, Workspace
from vllava_cli.engine.cpu.products import FORMS, GROUP, Form, Matrix
from vllava_cli.nouns import Dtype, LoadPlan, Quantisation

if TYPE_CHECKING:
    from transformers import VideoLlavaForConditionalGeneration

QUANTISED: dict[Quantisation, Form] = {"8bit": "int8", "4bit": "int4"}
BITS: dict[Form, int] = {"int8": 8, "int4": 4}
STORED: dict[str, Dtype] = {"F16": "float16", "BF16": "bfloat16"}


def stored_dtype(folder: Path) -> Dtype:
    """Returns the dtype in which a checkpoint's files hold its matrices; float32 for any but float16 and bfloat16."""
    stored = tensors_of(folder).get("language_model.layers.0.self_attn.q_proj.weight")
    if stored is None:
        return "float32"
    with safe_open(stored.file, framework="pt") as file:
        return STORED.get(file.get_slice(stored.name).get_dtype(), "float32")


def read_ahead(paths: Iterable[Path]) -> None:
    """Lets the system read files into free memory, in the background; mapped weights are then there when they are used.

    Does nothing where the system can't be asked for that.
    """

    def run() -> None:
        for path in paths:
            with suppress(OSError), path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)

    if hasattr(os, "posix_fadvise"):
        threading.Thread(target=run, name="reading ahead", daemon=True).start()


def settings_of(plan: LoadPlan, workspace: Workspace) -> dict[str, Any]:
    """Returns all that the values of quantised weights depend on, besides the checkpoint."""
    form = QUANTISED[plan.quantisation] if plan.quantisation else ""
    return {"form": form, "layout": workspace.products.layout, "group": GROUP}


def take_kept(model: VideoLlavaForConditionalGeneration, folder: Path, plan: LoadPlan, workspace: Workspace) -> None:
    """Replaces the matrices of the language model's layers by kept ones, which stay mapped from their files.

    Errors: those of safetensors and KeyError, if the files don't hold all of them.
    """
    if plan.quantisation is None:
        return
    paths = sorted(folder.glob("*.safetensors"), key=_number)
    read_ahead(paths)
    for number, path in enumerate(paths):
        with safe_open(path, framework="pt") as file:
            for name, owner, linear in _linears(model, number):
                if linear.in_features % GROUP:
                    continue
                values, scales = file.get_tensor(f"{name}.values"), file.get_tensor(f"{name}.scales")
                _replace(owner, name, linear, _matrix(QUANTISED[plan.quantisation], linear, values, scales), workspace)


def hold(
    model: VideoLlavaForConditionalGeneration,
    plan: LoadPlan,
    workspace: Workspace,
    prepare: Callable[[int], object] = lambda _: None,
) -> Iterator[float]:
    """Replaces the matrices that are still linear layers, quantised if the plan says so, and the head in 16 bits.

    Yields the share of layers that are done. What isn't a matrix becomes fp32, or the dtype of large products; matrices
    whose width isn't a multiple of GROUP become fp32. `prepare` is called with each layer's number before the layer's
    turn. A model must be held before Llama takes its weights.
    """
    language: Any = model.model.language_model
    for number, layer in enumerate(language.layers):
        prepare(number)
        for name, owner, linear in _linears(model, number):
            if linear.in_features % GROUP:
                setattr(owner, name.rpartition(".")[2], ExactLinear(linear))
            else:
                _replace(owner, name, linear, _held(linear, plan, workspace), workspace)
        layer.input_layernorm.float(), layer.post_attention_layernorm.float()
        yield (number + 1) / len(language.layers)
    language.norm.float()
    weight = model.lm_head.weight.detach()
    if weight.shape[1] % GROUP == 0:
        matrix = _matrix(FORMS[weight.dtype], model.lm_head, weight, torch.empty(0))
        exact = Workspace(products=workspace.products)  # probabilities are compared: logits are never rounded to bf16
        model.lm_head = CpuLinear(matrix, None, exact)
    else:
        model.lm_head.float()
    model.model.multi_modal_projector.to(workspace.wide_dtype)
    model.workspace = workspace


def keep(model: VideoLlavaForConditionalGeneration, folder: Path) -> None:
    """Writes the matrices of the layers, a file for each layer. Errors: OSError and those of safetensors."""
    layers: Any = model.model.language_model.layers
    for number, layer in enumerate(layers):
        held = {name: module.matrix for name, module in layer.named_modules() if isinstance(module, CpuLinear)}
        tensors = {f"{name}.values": matrix.values for name, matrix in held.items()}
        tensors |= {f"{name}.scales": matrix.scales for name, matrix in held.items()}
        save_file(tensors, folder / f"layer-{number}.safetensors")


def held_bytes(model: VideoLlavaForConditionalGeneration) -> int:
    """Returns the bytes of all matrices that the layers hold."""
    layers: Any = model.model.language_model.layers
    return sum(module.matrix.nbytes for module in layers.modules() if isinstance(module, CpuLinear))


def _linears(model: VideoLlavaForConditionalGeneration, number: int) -> Iterator[tuple[str, nn.Module, nn.Linear]]:
    """Yields the name in its layer, the owner and the module of each plain linear layer."""
    layer: Any = model.model.language_model.layers[number]
    for name, module in list(layer.named_modules()):
        if type(module) is nn.Linear:
            yield name, layer.get_submodule(name.rpartition(".")[0]), module


def _held(linear: nn.Linear, plan: LoadPlan, workspace: Workspace) -> Matrix:
    weight = linear.weight.detach()
    if plan.quantisation:
        return workspace.products.quantised(weight.contiguous(), QUANTISED[plan.quantisation])
    return _matrix(FORMS[weight.dtype], linear, weight.contiguous(), torch.empty(0))


def _matrix(form: Form, linear: nn.Linear, values: Tensor, scales: Tensor) -> Matrix:
    numbers, rows = linear.in_features * linear.out_features, linear.out_features
    least_scales = {"int8": 4 * rows, "int4": 2 * numbers // GROUP}.get(form, 0)
    if values.nbytes * 8 < numbers * BITS.get(form, 16) or scales.nbytes < least_scales:
        raise ValueError("there are too few values")  # compiled products would read beyond them
    return Matrix(form=form, values=values, scales=scales, outputs=linear.out_features, inputs=linear.in_features)


def _replace(owner: nn.Module, name: str, linear: nn.Linear, matrix: Matrix, workspace: Workspace) -> None:
    bias = None if linear.bias is None else linear.bias.detach().float()
    setattr(owner, name.rpartition(".")[2], CpuLinear(matrix, bias, workspace))


def _number(path: Path) -> int:
    found = re.search(r"\d+", path.stem)
    return int(found[0]) if found else -1
