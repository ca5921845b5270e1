"""Makes a long video of drawn scenes, one after another, whose times and contents are known.

    python -m training.reel FOLDER --minutes 60 --scene 10

writes reel.mp4 and reel.json: a row for each scene with its start and end in seconds, and what it shows.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import cast

import av
from av.video.stream import VideoStream

from training.media import Encoding, drawn, rounded
from training.world import COLOURS, SHAPES, Scene, sample_scene

FPS = 12
WIDTH, HEIGHT = 320, 180
SMALL = Encoding(options={"crf": "20", "preset": "veryfast", "g": "60"})


@dataclass(frozen=True, kw_only=True)
class Shot:
    """A scene, and when it is shown, in seconds."""

    start_s: float
    end_s: float
    scene: Scene

    def row(self) -> dict[str, object]:
        things = [{"colour": thing.colour, "shape": thing.shape, "action": thing.action} for thing in self.scene.things]
        return {"start_s": self.start_s, "end_s": self.end_s, "background": self.scene.background, "things": things}


@dataclass(frozen=True, kw_only=True)
class Sought:
    """A query for find, and whether a scene answers it."""

    query: str
    colour: str | None = None
    shape: str | None = None
    background: str | None = None

    def is_in(self, scene: Scene) -> bool:
        if self.background:
            return scene.background == self.background
        return any(thing.shape == self.shape and self.colour in (None, thing.colour) for thing in scene.things)


def shots(random: Random, count: int, scene_s: float) -> list[Shot]:
    """Scenes in a row; none of them has a thing that changes its colour, as it would have two."""
    found: list[Shot] = []
    while len(found) < count:
        scene = sample_scene(random)
        if not any(thing.action == "turns" for thing in scene.things):
            start_s = len(found) * scene_s
            found.append(Shot(start_s=start_s, end_s=start_s + scene_s, scene=scene))
    return found


def write(path: Path, its: list[Shot], *, encoding: Encoding = SMALL, fps: int = FPS) -> None:
    """Draws and encodes the shots, a scene at a time, so that an hour takes little memory."""
    with av.open(str(path), "w") as container:
        stream = cast("VideoStream", container.add_stream(encoding.codec, rate=fps, options=dict(encoding.options)))
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, encoding.pix_fmt
        for shot in its:
            count = round((shot.end_s - shot.start_s) * fps)
            for image in rounded(drawn(shot.scene, count, HEIGHT, WIDTH)):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def sought() -> Iterator[Sought]:
    """Yields every query about what is there: 24 things and 4 shapes."""
    for shape in SHAPES:
        yield Sought(query=f"a {shape}", shape=shape)
        for colour in COLOURS:
            article = "an" if colour[0] in "aeiou" else "a"
            yield Sought(query=f"{article} {colour} {shape}", colour=colour, shape=shape)


def phrased() -> dict[str, Sought]:
    """Returns 200 different queries: noun phrases, and training's questions about things and backgrounds."""
    things = {each.query: each for each in sought()}
    verbs = ("Is there", "Do you see", "Can you see")
    asked = {f"{verb} {query}?": each for query, each in things.items() for verb in (*verbs, *map(str.lower, verbs))}
    behind = {
        question.format(colour): Sought(query=colour, background=colour)
        for colour in ("black", "white")
        for question in ("Is the background {}?", "Is it {} in the background?")
    }
    return things | asked | behind


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--scene", type=float, default=10.0, help="seconds of a scene")
    parser.add_argument("--seed", type=int, default=20)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    its = shots(Random(given.seed), round(given.minutes * 60 / given.scene), given.scene)
    write(given.folder / "reel.mp4", its)
    (given.folder / "reel.json").write_text(json.dumps([shot.row() for shot in its], indent=1) + "\n")


if __name__ == "__main__":
    main()
