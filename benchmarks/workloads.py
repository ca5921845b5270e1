"""What `vllava batch` is measured on: clips that are made here, and what is asked about them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random

import numpy as np
import numpy.typing as npt

from benchmarks.pictures import pictures
from training.media import Encoding, encode, rounded
from training.render import draw
from training.world import sample_scene
from vllava_cli import demo

FPS, DURATION_S = 30, 10
X264 = Encoding(options={"preset": "medium", "crf": "23", "g": "250"})
"""x264's own defaults, written out."""
_TEXTURE, _TEXTURE_BESIDE = 0.2, 1.0
"""How much of a film with textures, motion and grain lies over the shapes, and beside the central square: the decoder
has its work and the model, which sees the square alone, its shapes."""
_FRAMES_AT_ONCE = 30
"""Drawing 300 in one go would take 1 GB."""

Film = npt.NDArray[np.uint8]

ONE_QUESTION = ("What happens in this video?",)
TEN_QUESTIONS = (
    *ONE_QUESTION,
    "What shape is it?",
    "What colour is it?",
    "Which way does it move?",
    "How many shapes are there?",
    "What colour is the background?",
    "What comes first?",
    "Is there a red circle?",
    "Does it move up?",
    "Why is this funny?",
)


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Each question about each clip; `make` writes the clips that a folder lacks and gives the first `count`."""

    name: str
    clips: int
    questions: tuple[str, ...]
    least_speedup: float
    make: Callable[[Path, int], list[Path]]

    @property
    def jobs(self) -> int:
        return self.clips * len(self.questions)

    @property
    def text(self) -> str:
        """ "clips: 100 x 1"."""
        return f"{self.name}: {self.clips} x {len(self.questions)}"


def made(folder: Path, count: int, *, width: int, height: int) -> list[Path]:
    """Clips of that size and ten seconds, each with a scene of its own, as H.264 in MP4."""
    folder = folder / f"batch-{width}x{height}-{DURATION_S}s"
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"clip-{index:03}.mp4" for index in range(count)]
    missing = [index for index, path in enumerate(paths) if not path.exists()]
    if missing:
        film = _film(width, height)
        for index in missing:
            _write(paths[index], Random(f"bench batch {index}"), film)
    return paths


def copied(folder: Path, count: int) -> list[Path]:
    """The shipped videos of the demo (192x192, 60 frames), under as many names as are asked for."""
    folder = folder / "batch-demo"
    folder.mkdir(parents=True, exist_ok=True)
    shipped = [path for path in demo.clips() if path.suffix == ".mp4"]
    return [_copy(shipped[index % len(shipped)], folder / f"clip-{index:03}.mp4") for index in range(count)]


_USUAL, _LIGHT = partial(made, width=640, height=360), partial(made, width=320, height=240)
ALL = (
    Workload(name="clips", clips=100, questions=ONE_QUESTION, least_speedup=2.7, make=_USUAL),
    Workload(name="questions", clips=20, questions=TEN_QUESTIONS, least_speedup=5.0, make=_USUAL),
    Workload(name="light-clips", clips=100, questions=ONE_QUESTION, least_speedup=2.0, make=_LIGHT),
    Workload(name="light-questions", clips=20, questions=TEN_QUESTIONS, least_speedup=5.0, make=_LIGHT),
    Workload(name="small", clips=100, questions=ONE_QUESTION, least_speedup=2.0, make=copied),
)


def _copy(source: Path, path: Path) -> Path:
    if not path.exists():
        shutil.copyfile(source, path)
    return path


def _film(width: int, height: int) -> Film:
    """[T, H, W, 3]: the textures, one shot without a cut."""
    count = DURATION_S * FPS
    return np.stack(list(pictures(count, width, height, scene_frames=count)))


def _write(path: Path, random: Random, film: Film) -> None:
    unfinished = path.with_name(f"unfinished-{path.name}")
    encode(unfinished, np.concatenate(list(_shown(random, film))), FPS, X264)
    unfinished.replace(path)


def _shown(random: Random, film: Film) -> Iterator[Film]:
    """The frames of one random scene with the textures over it, some at a time."""
    _, height, width, _ = film.shape
    scene, weights = sample_scene(random), _weights(width, height)
    for first in range(0, len(film), _FRAMES_AT_ONCE):
        part = film[first : first + _FRAMES_AT_ONCE]
        times = ((first + np.arange(len(part))) / len(film)).astype(np.float32)
        drawn = draw([scene], height, width, times)[0].permute(0, 2, 3, 1).numpy()
        yield rounded(drawn + weights * (part.astype(np.float32) - 128))


def _weights(width: int, height: int) -> npt.NDArray[np.float32]:
    """[W, 1]: how much of the textures each column gets."""
    weights = np.full((width, 1), _TEXTURE_BESIDE, np.float32)
    beside = (width - height) // 2
    weights[beside : width - beside] = _TEXTURE
    return weights
