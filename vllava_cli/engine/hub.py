"""Where a checkpoint's files are: a folder, the embedded demo, the hub's cache or, where they aren't here yet, the hub.

What the cache holds is used as it is, without asking the network. Only json, tokenizer and safetensors files are ever
fetched: no pickles, no code.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vllava_cli import demo
from vllava_cli.engine.folder_faults import no_weights
from vllava_cli.errors import CheckpointError, HubError
from vllava_cli.json_file import read_object, unusable
from vllava_cli.nouns import DEMO_MODEL, Adapter

DESCRIPTION_FILES = ["*.json", "tokenizer.model"]
WEIGHT_FILES = ["*.safetensors", "*.safetensors.index.json"]
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER_FILES = ["adapter_config.json", "adapter_model.safetensors"]


@dataclass(frozen=True, kw_only=True)
class Source:
    """A checkpoint's folder; `revision` is the commit when it came from the hub."""

    model: str
    folder: Path
    revision: str | None = None
    adapter: Adapter | None = None
    """What is to be merged into it."""


def locate(model: str, revision: str | None = None, *, is_quiet: bool = True) -> Source:
    """The folder with the checkpoint's description, fetched from the hub where the cache lacks it.

    Errors: CheckpointError for an unknown folder, HubError where the hub can't help.
    """
    return find_here(model, revision) or _fetch(model, revision, DESCRIPTION_FILES, is_quiet=is_quiet)


def locate_adapter(name: str, revision: str | None = None, *, is_quiet: bool = True) -> Source:
    """The folder with a LoRA adapter's files, fetched from the hub where the cache lacks one of them.

    Errors: CheckpointError for an unknown folder, HubError where the hub can't help.
    """
    source = find_here(name, revision)
    if source and (source.revision is None or all((source.folder / file).exists() for file in ADAPTER_FILES)):
        return source
    return _fetch(name, revision, ADAPTER_FILES, is_quiet=is_quiet)


def find_here(model: str, revision: str | None = None) -> Source | None:
    """The checkpoint as far as it is on this disk, or None for a hub id that isn't cached."""
    if model == DEMO_MODEL:
        return Source(model=model, folder=demo.CHECKPOINT)
    if _is_folder_name(model):
        return Source(model=model, folder=_existing_folder(model))
    return find_cached(model, revision)


def find_cached(model: str, revision: str | None = None) -> Source | None:
    """What the hub's cache holds of a checkpoint or an adapter, or None."""
    from huggingface_hub import try_to_load_from_cache

    for name in ("config.json", ADAPTER_FILES[0]):
        with _hub_faults(model, revision):
            config = try_to_load_from_cache(model, name, revision=revision)
        if isinstance(config, str):
            folder = Path(config).parent
            return Source(model=model, folder=folder, revision=folder.name)
    return None


def fetch_weights(source: Source, *, is_quiet: bool = True) -> None:
    """Fetches the safetensors files of a hub checkpoint where they are missing.

    Errors: HubError; CheckpointError for a folder that has none.
    """
    if not missing_weights(source.folder):
        return
    if source.revision is not None:
        _fetch(source.model, source.revision, WEIGHT_FILES, is_quiet=is_quiet)
        if missing_weights(source.folder):  # without a network a half-filled snapshot counts as fetched
            raise _unreachable(source.model)
    elif missing := missing_weights(source.folder):
        raise no_weights(source.folder, missing)


def missing_weights(folder: Path) -> list[str]:
    """The names of the weight files that `folder` should have and lacks: [] → complete. Errors: CheckpointError."""
    return [name for name in weight_files(folder) if not (folder / name).exists()]


def weights_bytes(folder: Path) -> int:
    """What the weights in `folder` take on disk."""
    return sum((folder / name).stat().st_size for name in weight_files(folder) if (folder / name).exists())


def weight_files(folder: Path) -> list[str]:
    """The names of the files that weights are read from, whether they are here or not.

    One file goes before shards, as in transformers: saving again leaves an index of shards that are gone. Errors:
    CheckpointError for an index that names no files of this folder.
    """
    index = folder / INDEX
    if (folder / WEIGHTS).exists() or not index.exists():
        return [WEIGHTS]
    shards = read_object(index).get("weight_map")
    names = set(shards.values()) if isinstance(shards, dict) and all(map(_is_name, shards.values())) else set()
    if not names:
        raise unusable(index, "it doesn't say in which files of its folder the weights are")
    return sorted(names)


def _is_name(shard: object) -> bool:
    return isinstance(shard, str) and re.fullmatch(r"[\w.-]{1,200}\.safetensors", shard) is not None


def cache_folder() -> Path:
    """Where the hub's files are cached: HF_HUB_CACHE, HF_HOME or the default."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _is_folder_name(model: str) -> bool:
    looks_like_path = model.startswith((".", "~", os.sep)) or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", model)
    return looks_like_path or Path(model).is_dir()


def _existing_folder(model: str) -> Path:
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    raise CheckpointError(
        f"There is no model folder {model}: give the folder of a Video-LLaVA checkpoint, a hub id, or --model demo."
    )


def _fetch(model: str, revision: str | None, patterns: list[str], *, is_quiet: bool) -> Source:
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils.tqdm import disable_progress_bars, enable_progress_bars

    (disable_progress_bars if is_quiet else enable_progress_bars)()
    with _hub_faults(model, revision):
        folder = Path(snapshot_download(model, revision=revision, allow_patterns=patterns))
    return Source(model=model, folder=folder, revision=folder.name)


@contextmanager
def _hub_faults(model: str, revision: str | None) -> Iterator[None]:
    """Turns what the hub's library raises into one sentence."""
    from huggingface_hub import errors

    try:
        yield
    except (errors.GatedRepoError, errors.RepositoryNotFoundError) as exc:
        raise HubError(
            f"The hub has no model {model} that you may read: check the name, or log in with hf auth login."
        ) from exc
    except errors.RevisionNotFoundError as exc:
        raise HubError(f"The hub's model {model} has no revision {revision}: leave --revision out for main.") from exc
    except errors.HFValidationError as exc:
        raise HubError(f"{model} is neither a folder nor a hub id such as LanguageBind/Video-LLaVA-7B-hf.") from exc
    except (OSError, errors.HfHubHTTPError) as exc:
        raise _unreachable(model) from exc


def _unreachable(model: str) -> HubError:
    return HubError(
        f"The model {model} is not in the cache {cache_folder()} and the hub can't be reached: run "
        f"hf download {model} where there is a network, or try --model demo, which is built in."
    )
