"""What a user's model folder lacks, in a sentence that says where to have it from: nothing is fetched for a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vllava_cli.errors import CheckpointError
from vllava_cli.storage.fields import read_object

CONFIG, ADAPTER_CONFIG = "config.json", "adapter_config.json"
PREPROCESSORS = ("preprocessor_config.json", "video_preprocessor_config.json", "processor_config.json")
PICKLED = (".bin", ".pt", ".pth", ".ckpt")


def base_of(folder: Path) -> str | None:
    """The name of the model that a folder's was made from, as far as its files say. Errors: CheckpointError."""
    for name, key in ((ADAPTER_CONFIG, "base_model_name_or_path"), (CONFIG, "_name_or_path")):
        base = read_object(folder / name).get(key) if (folder / name).exists() else None
        if isinstance(base, str) and base and Path(base) != folder:
            return base
    return None


def no_config(folder: Path, named: str) -> CheckpointError:
    """A folder without config.json: an adapter's, perhaps."""
    if (folder / ADAPTER_CONFIG).exists():
        return CheckpointError(f"{named} is an adapter: give --model {base_of(folder) or 'BASE'} --adapter {named}.")
    return CheckpointError(f"The folder {folder} is no checkpoint: it has no {CONFIG}.")


def check_described(folder: Path) -> None:
    """Errors: CheckpointError that names all files which are missing beside config and weights."""
    missing = []
    if not (folder / "tokenizer.json").exists():
        is_slow = (folder / "tokenizer.model").exists()
        missing.append("tokenizer.json" + " (tokenizer.model alone won't do)" * is_slow)
    if not any((folder / name).exists() for name in PREPROCESSORS):
        missing.append(PREPROCESSORS[0])
    if missing:
        raise _lacking(folder, missing, "copy what is missing from")


def no_weights(folder: Path, missing: Sequence[str]) -> CheckpointError:
    """A folder that lacks files of weights."""
    if (folder / ADAPTER_CONFIG).exists():
        return no_config(folder, str(folder))
    pickled = sorted(
        path.name for path in folder.iterdir() if path.suffix in PICKLED and "training_args" not in path.name
    )
    if pickled and not (folder / "model.safetensors.index.json").exists():
        return CheckpointError(
            f"The model folder {folder} has its weights in {pickled[0]}, and vllava reads them from safetensors files "
            "only: load it with transformers where you trust it, and save it with save_pretrained."
        )
    return _lacking(folder, missing, "copy the weights there again from where they were saved, or take")


def _lacking(folder: Path, missing: Sequence[str], remedy: str) -> CheckpointError:
    base = base_of(folder)
    where = f"the base checkpoint{f' {base}' if base else ', which it was trained from'}"
    return CheckpointError(f"The model folder {folder} lacks {' and '.join(missing)}: {remedy} {where}.")
