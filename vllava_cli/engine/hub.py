"""Finds a checkpoint's files: in a folder, the embedded demo, the hub's cache or, if they aren't here yet, the hub.

If the cache is complete, the network isn't asked. Only JSON, tokenizer and safetensors files are ever fetched: no
pickles, no code.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from vllava_cli import demo
from vllava_cli.engine.checkpoint import ADAPTER_CONFIG, CONFIG, no_weights
from vllava_cli.engine.hub_download import ask, cache_folder, fetch, refusals
from vllava_cli.errors import CheckpointError, HubError, reason_of
from vllava_cli.media.preprocess import has_recipe
from vllava_cli.nouns import (
    DEMO_MODEL,
    SILENT,
    Log,
    Source,
    SourceKind,
)
from vllava_cli.storage.fields import MOST_BYTES, check_json_file, read_object, unusable

NEEDED = ((CONFIG,), ("tokenizer.json", "tokenizer.model"), ("preprocessor_config.json", "processor_config.json"))
"""Rows of file names; a checkpoint has at least one file of each row."""
USUAL = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")
"""Files that a checkpoint may lack, and whose absence changes its answers."""
OTHERS = ("special_tokens_map.json", "added_tokens.json", "video_preprocessor_config.json")
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
MAX_WEIGHTS_BYTES = 1 << 36
ADAPTER_FILES = (ADAPTER_CONFIG, "adapter_model.safetensors")


def locate(model: str, revision: str | None = None, *, log: Log = SILENT) -> Source:
    """Finds the folder with a checkpoint's description, and fetches the files that the cache lacks from the hub.

    Errors: CheckpointError for an unknown folder, HubError if the hub can't help.
    """
    source = find_here(model, revision)
    if source and source.revision is None:
        return source
    missing = missing_description(source.folder) if source else [CONFIG]
    is_adapter = source is not None and (source.folder / ADAPTER_CONFIG).exists() and CONFIG in missing
    if source is None or (missing and not is_adapter):
        return _described(*ask(model, revision, lack=lack(model, source, missing)), log)
    from huggingface_hub import try_to_load_from_cache

    # A state is None if the file is neither here nor known to be missing in its repository.
    states = {name: try_to_load_from_cache(model, name, revision=source.revision) for name in (CONFIG, *USUAL)}
    if unknown := [name for name, state in states.items() if state is None]:
        with suppress(HubError):  # a checkpoint is used as it is; an adapter is refused later
            return _described(*ask(model, source.revision, lack=lack(model, source, unknown)), log)
    return source


def locate_adapter(name: str, *, log: Log = SILENT) -> Source:
    """Finds the folder with a LoRA adapter's files, and fetches the files that the cache lacks from the hub.

    Errors: CheckpointError for an unknown folder, HubError if the hub can't help.
    """
    source = find_here(name, kind="adapter")
    missing = missing_adapter(source)
    if source and not missing:
        return source
    source, names = ask(name, None, lack=lack(name, source, missing, kind="adapter"), kind="adapter")
    _check_listed(source, names, ADAPTER_FILES, f"an adapter is read from {' and '.join(ADAPTER_FILES)}")
    return _fetched(source, ADAPTER_FILES, log)


def missing_adapter(source: Source | None) -> list[str]:
    """Lists an adapter's files that the hub's cache lacks; [] for a user's folder, into which nothing is fetched."""
    if source and source.revision is None:
        return []
    return [file for file in ADAPTER_FILES if not source or not (source.folder / file).exists()]


def find_here(model: str, revision: str | None = None, *, kind: SourceKind = "model") -> Source | None:
    """Finds a checkpoint or an adapter on this disk, perhaps incomplete; None for a hub id that isn't cached."""
    if is_local(model):
        folder = demo.CHECKPOINT if model == DEMO_MODEL else _existing_folder(model, kind)
        return Source(model=model, folder=folder, kind=kind)
    from huggingface_hub import try_to_load_from_cache

    for name in (CONFIG, ADAPTER_CONFIG):
        with refusals(model, revision, kind):
            found = try_to_load_from_cache(model, name, revision=revision)
        if isinstance(found, str):
            folder = Path(found).parent
            return Source(model=model, folder=folder, revision=folder.name, kind=kind)
    return None


def fetch_weights(source: Source, *, log: Log = SILENT) -> None:
    """Fetches the safetensors files that a checkpoint of the hub lacks, and checks by their headers that all are whole.

    Errors: HubError; CheckpointError for a user's folder that lacks weights, and for a file that is damaged.
    """
    folder, model = source.folder, source.model
    missing = missing_weights(folder)
    if missing and source.revision is None:
        is_index_lost = missing == [WEIGHTS] and any(folder.glob("*-of-*.safetensors"))
        raise no_weights(folder, [INDEX] if is_index_lost else missing)
    if missing:
        source, names = ask(model, source.revision, lack=lack(model, source, missing))
        if WEIGHTS not in names and INDEX in names:
            fetch(source, [INDEX])
            missing = missing_weights(folder)
        _check_listed(source, names, missing, "vllava reads weights from safetensors files only")
        fetch(source, missing, has_bar=log.has_bars)
    for name in weight_files(folder):
        shapes_in(folder / name)


def shapes_in(path: Path) -> dict[str, tuple[int, ...]]:
    """Reads the shape of each tensor from the header of a safetensors file. Errors: CheckpointError."""
    from safetensors import safe_open

    check_json_file(path, most_bytes=MAX_WEIGHTS_BYTES)
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118  (no dict)
    except Exception as exc:  # safetensors raises a type of its own
        raise unusable(path, f"it is not a safetensors file, or it is damaged ({reason_of(exc)})") from exc


def missing_description(folder: Path) -> list[str]:
    """Lists the files that describe a checkpoint and that `folder` lacks; [] if it is complete."""
    missing = [row[0] for row in NEEDED if not any((folder / name).exists() for name in row)]
    return missing or ([] if has_recipe(folder) else ["preprocessor_config.json"])


def missing_weights(folder: Path) -> list[str]:
    """Lists the weight files that `folder` should have and lacks; [] if it is complete. Errors: CheckpointError."""
    return [name for name in weight_files(folder) if not (folder / name).exists()]


def weights_bytes(source: Source) -> int:
    """Counts the bytes that the weights take on this disk, including downloads that broke off."""
    arrived = (source.folder.parent.parent / "blobs").glob("*.incomplete") if source.revision else ()
    files = (*(source.folder / name for name in weight_files(source.folder)), *arrived)
    return sum(path.stat().st_size for path in files if path.exists())


def weight_files(folder: Path) -> list[str]:
    """Lists the files that the weights are read from, whether they are here or not.

    A single file is preferred to shards, as in transformers: saving a model again may leave an index of shards that are
    gone. Errors: CheckpointError for an index that names no files of this folder.
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


def lack(model: str, source: Source | None, missing: list[str], *, kind: SourceKind = "model") -> str:
    """Makes the beginning of an error's message, which says what isn't here."""
    return f"The {kind} {model} {f'lacks {missing[0]}' if source else 'is not'} in the cache {cache_folder()}"


def cached_models() -> list[str]:
    """Lists the hub ids of the Video-LLaVA checkpoints in the cache, sorted."""
    configs = sorted(cache_folder().glob("models--*--*/snapshots/*/config.json"))
    found = (path.parents[2].name.removeprefix("models--").replace("--", "/") for path in configs if _is_ours(path))
    return list(dict.fromkeys(found))


def _is_ours(config: Path) -> bool:
    try:
        with config.open("rb") as file:
            return b"video_llava" in file.read(MOST_BYTES)
    except OSError:
        return False


def is_local(model: str) -> bool:
    """Returns True if a name is that of a folder or of the demo model, and no hub id."""
    looks_like_path = model.startswith((".", "~", os.sep)) or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", model)
    return model == DEMO_MODEL or looks_like_path or os.path.isdir(model)


def _existing_folder(model: str, kind: SourceKind) -> Path:
    folder = Path(os.path.expanduser(model))  # noqa: PTH111  (Path.expanduser raises for an unknown user)
    if not os.path.isdir(folder):
        wanted = "Video-LLaVA checkpoint, a hub id, or --model demo" if kind == "model" else "LoRA adapter, or a hub id"
        raise CheckpointError(f"There is no {kind} folder {model}: give the folder of a {wanted}.")
    if not os.access(folder, os.R_OK | os.X_OK):
        raise CheckpointError(f"The {kind} folder {model} can't be read: permission denied. Check its mode and owner.")
    return folder


def _described(source: Source, names: frozenset[str], log: Log) -> Source:
    """Fetches a checkpoint's description files; marks absent ones in the cache, as the hub's library does."""
    known = {*USUAL, *OTHERS, *(name for row in NEEDED for name in row), ADAPTER_CONFIG}
    _fetched(source, sorted(known & names), log)
    with suppress(OSError):
        for name in {CONFIG, *USUAL} - names:
            mark = source.folder.parent.parent / ".no_exist" / source.folder.name / name
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()
    return source


def _fetched(source: Source, names: Iterable[str], log: Log) -> Source:
    """Fetches files, the configs last: a later start looks for these, and then finds the others beside them."""
    found_by = {CONFIG, ADAPTER_CONFIG}
    fetch(source, [name for name in names if name not in found_by], has_bar=log.has_bars)
    fetch(source, [name for name in names if name in found_by])
    return source


def _check_listed(source: Source, listed: frozenset[str], names: Iterable[str], reason: str) -> None:
    """Raises HubError if `listed`, the files of a repository, lacks one of `names`."""
    if lacking := [name for name in names if name not in listed]:
        raise HubError(f"The hub's {source.kind} {source.model} has no {lacking[0]}: {reason}, so name another one.")
