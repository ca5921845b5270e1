"""Footage whose scenes are known, and `vllava find` in a folder with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.batch.fork_server import Zygote
from tests.commands.shell import Shell
from training.media import Encoding, drawn, encode, rounded, save_picture
from training.world import BACKGROUNDS, COLOURS, Scene, Thing

Find = Callable[..., Shell]


def scene(colour: str, shape: str) -> Scene:
    thing = Thing(colour=colour, shape=shape, rgb=COLOURS[colour], x=0.5, y=0.5, radius=0.2)
    return Scene(kind="rest", background="white", background_rgb=BACKGROUNDS["white"], things=(thing,))


def write_reel(path: Path, *scenes: str) -> None:
    """Scenes of two seconds each: write_reel(path, "red circle", "blue star")."""
    pixels = [rounded(drawn(scene(*each.split()), 16, 96, 96)) for each in scenes]
    encode(path, np.concatenate(pixels), 8, Encoding())


@pytest.fixture(scope="session")
def footage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """a.mp4: a red circle, a blue star, the circle, a green square. in/b.mp4: a blue star. photo.png: a red circle."""
    folder = tmp_path_factory.mktemp("footage") / "clips"
    (folder / "in").mkdir(parents=True)
    write_reel(folder / "a.mp4", "red circle", "blue star", "red circle", "green square")
    write_reel(folder / "in" / "b.mp4", "blue star", "blue star")
    save_picture(folder / "photo.png", rounded(drawn(scene("red", "circle"), 1, 96, 96))[0])
    return folder


@pytest.fixture(scope="session")
def find(footage: Path, vllava: Zygote) -> Find:
    """Runs find with the demo model in the folder of the footage; answers are kept from test to test."""

    def run(*words: str, stdin: bytes = b"", store: Path = footage.parent / "cache", folder: Path = footage) -> Shell:
        words = ("find", "--model", "demo", "--every", "2s", *words)
        return vllava.run(*words, folder=folder, stdin=stdin, environment={"VLLAVA_CACHE": str(store)})

    return run
