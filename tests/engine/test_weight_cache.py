"""Kept weights are found under a name that says all that they follow from, and by nobody else."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.engine.keepsakes import PLAN, made, put
from vllava_cli.engine.weight_cache import (
    LABEL,
    Kept,
    OriginalFile,
    all_kept,
    cache_folder,
    origin_of,
    read_kept,
)
from vllava_cli.nouns import LoadPlan


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def test_the_same_checkpoint_in_the_same_form_has_the_same_name(checkpoint: Path) -> None:
    other_gpu = replace(PLAN, device="cuda:0", device_reason="Another test.", attention="eager")
    assert made(checkpoint, other_gpu).name == made(checkpoint).name


@pytest.mark.parametrize(
    "plan", [replace(PLAN, quantisation="8bit"), replace(PLAN, dtype="float32"), replace(PLAN, device="cpu")]
)
def test_another_form_has_another_name(plan: LoadPlan, checkpoint: Path) -> None:
    assert made(checkpoint, plan).name != made(checkpoint).name


def test_other_settings_or_libraries_have_another_name(checkpoint: Path) -> None:
    origin = made(checkpoint)
    names = {
        origin.name,
        made(checkpoint, bnb_4bit_use_double_quant=True).name,
        replace(origin, versions=(*origin.versions[1:], "torch 0")).name,
        replace(origin, layout=origin.layout + 1).name,
    }
    assert len(names) == 4
    assert [version.split()[0] for version in origin.versions] == ["transformers", "bitsandbytes", "torch"]


def larger(path: Path) -> None:
    path.write_bytes(b"more weights")


def touched(path: Path) -> None:
    os.utime(path, ns=(1, 1))


def replaced(path: Path) -> None:
    """By another file of the same size and date."""
    facts = path.stat()
    (path.parent / "new").write_bytes(b"WEIGHTS")
    os.utime(path.parent / "new", ns=(facts.st_atime_ns, facts.st_mtime_ns))
    (path.parent / "new").replace(path)


def joined(path: Path) -> None:
    (path.parent / "model-2.safetensors").write_bytes(b"")


@pytest.mark.parametrize("change", [larger, touched, replaced, joined])
def test_a_changed_checkpoint_has_another_name(change: Callable[[Path], None], checkpoint: Path) -> None:
    before = made(checkpoint).name
    change(checkpoint / "model.safetensors")
    assert made(checkpoint).name != before


def test_each_file_of_the_model_is_described_by_size_and_dates(checkpoint: Path) -> None:
    (checkpoint / "README.md").write_text("Not part of it.")
    os.utime(checkpoint / "model.safetensors", ns=(1, 2))
    changed = [(checkpoint / name).stat().st_ctime_ns for name in ("config.json", "model.safetensors")]
    modified = (checkpoint / "config.json").stat().st_mtime_ns
    assert made(checkpoint).files == (
        OriginalFile(path=f"{checkpoint}/config.json", bytes=2, modified_ns=modified, changed_ns=changed[0]),
        OriginalFile(path=f"{checkpoint}/model.safetensors", bytes=7, modified_ns=2, changed_ns=changed[1]),
    )


def test_links_are_followed_to_the_files(checkpoint: Path, tmp_path: Path) -> None:
    link = tmp_path / "snapshot"
    link.symlink_to(checkpoint)
    assert made(link).name == made(checkpoint).name


def test_a_checkpoint_that_lacks_a_file_has_no_origin(checkpoint: Path) -> None:
    (checkpoint / "model-2.safetensors").symlink_to("nowhere")
    assert origin_of(checkpoint, PLAN, {}) is None


def test_what_is_kept_is_told_by_model(checkpoint: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    second = put(cache, made(checkpoint), model="b")
    first = put(cache, made(checkpoint, replace(PLAN, quantisation="8bit")), model="a")
    assert all_kept(cache) == (
        Kept(folder=first, model="a", precision="8bit", bytes=5),
        Kept(folder=second, model="b", precision="4bit", bytes=5),
    )


def test_what_is_not_whole_or_not_ours_is_not_there(checkpoint: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    origin = made(checkpoint)
    folder = put(cache, origin)
    (cache / "a file").write_text("")
    folder.rename(cache / "copy of it")
    (cache / "empty").mkdir()
    assert (all_kept(cache), read_kept(folder)) == ((), None)
    (cache / "copy of it").rename(folder)
    assert [kept.folder for kept in all_kept(cache)] == [folder]
    (folder / "model.safetensors").write_bytes(b"smaller")
    assert (all_kept(cache), read_kept(folder)) == ((), None)


@pytest.mark.parametrize("label", ["", "[]", "null", '{"sizes": []}', '{"sizes": {}, "origin": 1, "model": 2}'])
def test_a_foreign_label_is_not_there(label: str, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / LABEL).write_text(label)
    assert all_kept(tmp_path) == ()


def test_the_cache_is_the_users_or_where_it_is_wished(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLAVA_CACHE", "/fast/disk")
    assert cache_folder() == Path("/fast/disk/quantised")
    monkeypatch.delenv("VLLAVA_CACHE")
    assert cache_folder().parts[-2:] == ("vllava", "quantised")
