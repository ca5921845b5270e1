"""Scenes hold what their words say, and are drawn the same at every size."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from training.media import drawn
from training.world import (
    BACKGROUNDS,
    COLOURS,
    SCENES,
    Scene,
    Thing,
    sample_scene,
    sample_still,
    track,
)

EVERY_INSTANT = np.linspace(0, 1, 41, dtype=np.float32)
CIRCLE = Thing(colour="red", shape="circle", rgb=COLOURS["red"], x=0.25, y=0.5, radius=0.15)


def scene(*things: Thing) -> Scene:
    return Scene(kind="move", background="white", background_rgb=BACKGROUNDS["white"], things=things)


def scenes(count: int) -> list[Scene]:
    random = Random(4)
    return [sample_scene(random) for _ in range(count)] + [sample_still(random) for _ in range(count // 4)]


def test_things_that_are_there_together_never_touch() -> None:
    for shown in scenes(200):
        paths = [track(thing, EVERY_INSTANT) for thing in shown.things]
        for index, one in enumerate(paths):
            for other in paths[:index]:
                is_together = (one.visible > 0) & (other.visible > 0)
                gap = np.hypot(one.x - other.x, one.y - other.y) - one.radius - other.radius
                assert (gap[is_together] > 0).all()


def test_things_stay_inside_the_central_square() -> None:
    for shown in scenes(200):
        for path in (track(thing, EVERY_INSTANT) for thing in shown.things):
            for centre in (path.x, path.y):
                assert (centre - path.radius > 0).all()
                assert (centre + path.radius < 1).all()


def test_every_kind_of_scene_comes_up_with_colours_that_name_one_thing_each() -> None:
    shown = scenes(300)
    assert {one.kind for one in shown} == {*SCENES, "still"}
    for one in shown:
        colours = [thing.colour for thing in one.things]
        colours += [thing.final_colour for thing in one.things if thing.final_colour]
        assert len(set(colours)) == len(colours)


@pytest.mark.parametrize(
    ("height", "width", "row", "column"), [(64, 64, 32, 16), (120, 160, 60, 50), (320, 240, 160, 60)]
)
def test_a_scene_is_drawn_in_the_central_square_of_any_size(height: int, width: int, row: int, column: int) -> None:
    frame = drawn(scene(CIRCLE), 1, height, width)[0]
    assert frame.shape == (height, width, 3)
    assert frame[row, column].tolist() == list(COLOURS["red"])
    assert frame[0, 0].tolist() == list(BACKGROUNDS["white"])
    assert frame[row, width - column].tolist() == list(BACKGROUNDS["white"])
