"""Scenes hold what their words say, and are drawn the same at every size."""

from __future__ import annotations

from dataclasses import replace
from math import atan2, degrees, hypot
from random import Random

import numpy as np
import pytest

from training.media import drawn
from training.world import (
    BACKGROUNDS,
    COLOURS,
    DIRECTIONS,
    SCENES,
    SHAPES,
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


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_mover_goes_where_its_direction_says(direction: str) -> None:
    random = Random(direction)
    drawn_scenes = (sample_scene(random, "move") for _ in range(400))
    movers = [shown.things[0] for shown in drawn_scenes if shown.things[0].direction == direction]
    assert len(movers) > 20
    across, down = DIRECTIONS[direction]
    for mover in movers:
        turned = degrees(atan2(mover.shift[1], mover.shift[0]) - atan2(down, across))
        assert abs((turned + 180) % 360 - 180) < 10
        assert hypot(*mover.shift) > 0.35


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


def test_a_mover_is_drawn_where_it_has_come_to() -> None:
    mover = replace(CIRCLE, action="moves", direction="right", shift=(0.5, 0.0))
    first, middle = drawn(scene(mover), 2, 64, 64)
    assert first[32, 16].tolist() == list(COLOURS["red"])
    assert middle[32, 16].tolist() == list(BACKGROUNDS["white"])
    assert middle[32, 32].tolist() == list(COLOURS["red"])


def test_a_thing_is_drawn_only_while_it_is_shown() -> None:
    visitor = replace(CIRCLE, shown_from=0.5, shown_until=0.75)
    reds = [frame[32, 16, 1] < 128 for frame in drawn(scene(visitor), 4, 64, 64)]
    assert reds == [False, False, True, False]


@pytest.mark.parametrize("shape", SHAPES)
def test_each_shape_covers_its_centre_and_not_its_corner(shape: str) -> None:
    frame = drawn(scene(replace(CIRCLE, shape=shape, x=0.5, radius=0.4)), 1, 64, 64)[0]
    assert frame[32, 32].tolist() == list(COLOURS["red"])
    assert frame[2, 2].tolist() == list(BACKGROUNDS["white"])
