"""Sets of kept weights as keeping.py leaves them, of no real weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.engine.engines import EXACT
from vllava_cli.engine.weight_cache import LABEL, Origin, label_of, origin_of
from vllava_cli.nouns import LoadPlan

PLAN = replace(EXACT, quantisation="4bit", dtype="float16", device="cuda:1")


def made(folder: Path, plan: LoadPlan = PLAN, **settings: Any) -> Origin:
    origin = origin_of(folder, plan, {"load_in_4bit": True} | settings)
    assert origin is not None
    return origin


def put(cache: Path, origin: Origin, *, model: str = "a/model") -> Path:
    """A set as keeping.py leaves it."""
    folder = cache / origin.name
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"small")
    (folder / LABEL).write_text(label_of(origin, model, folder))
    return folder
