"""Makes the clips and pictures that are shipped with the demo: `python -m training.clips [FOLDER]`.

Videos are H.264 of 192x192 at 24 frames a second, a few KB each; the scenes are placed by hand.
"""

import sys
from dataclasses import replace
from pathlib import Path

from training.media import Encoding, drawn, encode, rounded, save_picture
from training.world import BACKGROUNDS, COLOURS, DIRECTIONS, Scene, Thing
from vllava_cli.demo import CLIPS

SIDE = 192
FPS = 24
DURATION_S = 2.5
H264 = Encoding(options={"crf": "22", "preset": "slow", "bf": "2"})


def videos() -> dict[str, Scene]:
    """Name of the file → what it shows."""
    circle = _moving(_thing("red", "circle", 0.76, 0.5), "left", 0.52)
    star = _moving(_thing("orange", "star", 0.28, 0.72), "up-right", 0.4)
    triangle = _thing("purple", "triangle", 0.5, 0.5, radius=0.22)
    several = (
        _thing("red", "square", 0.25, 0.28),
        _thing("yellow", "circle", 0.74, 0.3),
        _thing("blue", "triangle", 0.5, 0.74),
    )
    later = replace(_thing("yellow", "triangle", 0.72, 0.6), shown_from=0.5)
    return {
        "red-circle-moves-left": _scene("white", circle),
        "orange-star-moves-up-right": _scene("black", star),
        "blue-star-grows": _scene("gray", _growing(_thing("blue", "star", 0.5, 0.5, radius=0.1), 0.26)),
        "green-square-then-yellow-triangle": _scene("black", _thing("green", "square", 0.27, 0.4), later),
        "purple-triangle-turns-orange": _scene("white", _turning(triangle, "orange")),
        "three-shapes": _scene("gray", *several),
    }


def pictures() -> dict[str, Scene]:
    """Name of the file → what it shows."""
    return {
        "two-shapes": _scene("white", _thing("blue", "square", 0.3, 0.45), _thing("red", "star", 0.7, 0.58)),
        "yellow-star": _scene("black", _thing("yellow", "star", 0.5, 0.5, radius=0.22)),
    }


def make(folder: Path) -> None:
    """Writes every clip and picture."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, scene in videos().items():
        encode(folder / f"{name}.mp4", rounded(drawn(scene, round(DURATION_S * FPS), SIDE, SIDE)), FPS, H264)
    for name, scene in pictures().items():
        save_picture(folder / f"{name}.png", rounded(drawn(scene, 1, SIDE, SIDE))[0])


def _scene(background: str, *things: Thing) -> Scene:
    return Scene(kind="shipped", background=background, background_rgb=BACKGROUNDS[background], things=things)


def _thing(colour: str, shape: str, x: float, y: float, radius: float = 0.16) -> Thing:
    return Thing(colour=colour, shape=shape, rgb=COLOURS[colour], x=x, y=y, radius=radius)


def _moving(thing: Thing, direction: str, by: float) -> Thing:
    across, down = DIRECTIONS[direction]
    shift = (across * by, down * by)
    return replace(thing, action="moves", direction=direction, shift=shift, begins=0.05, ends=0.95)


def _growing(thing: Thing, radius: float) -> Thing:
    return replace(thing, action="grows", final_radius=radius, begins=0.05, ends=0.95)


def _turning(thing: Thing, colour: str) -> Thing:
    turned = replace(thing, final_colour=colour, final_rgb=COLOURS[colour])
    return replace(turned, action="turns", begins=0.45, ends=0.5)


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else CLIPS)
