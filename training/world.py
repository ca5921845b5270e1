"""The demo's world: a few coloured shapes on a plain background, and what each of them does.

Everything is measured in units of the central square (0..1) and of the clip's duration (0..1), so the same
scene can be drawn at any size and frame rate. `sample_scene` draws a random clip, `sample_still` a random picture.
"""

from dataclasses import dataclass, replace
from random import Random

import numpy as np
from numpy.typing import NDArray

Rgb = tuple[int, int, int]
Floats = NDArray[np.float32]

COLOURS: dict[str, Rgb] = {
    "red": (220, 25, 30),
    "orange": (250, 135, 10),
    "yellow": (245, 230, 30),
    "green": (20, 160, 50),
    "blue": (30, 70, 225),
    "purple": (150, 35, 190),
}
BACKGROUNDS: dict[str, Rgb] = {"black": (10, 10, 12), "gray": (125, 125, 125), "white": (244, 244, 242)}
SHAPES = ("circle", "square", "triangle", "star")
DIRECTIONS: dict[str, tuple[float, float]] = {
    "right": (1, 0),
    "down-right": (1, 1),
    "down": (0, 1),
    "down-left": (-1, 1),
    "left": (-1, 0),
    "up-left": (-1, -1),
    "up": (0, -1),
    "up-right": (1, -1),
}
ACTIONS = ("rests", "moves", "grows", "shrinks", "appears", "disappears", "turns")
SCENES = {"move": 30, "rest": 7, "act": 21, "duo": 20, "sequence": 18, "many": 12}
MARGIN = 0.02
PROBES = np.linspace(0, 1, 9, dtype=np.float32)


@dataclass(frozen=True, kw_only=True)
class Thing:
    """One shape: where it is, how large, and what it does between `begins` and `ends`."""

    colour: str
    shape: str
    rgb: Rgb
    x: float
    y: float
    radius: float
    angle: float = 0.0
    action: str = "rests"
    direction: str | None = None
    shift: tuple[float, float] = (0.0, 0.0)
    final_radius: float = 0.0
    final_colour: str | None = None
    final_rgb: Rgb | None = None
    begins: float = 0.0
    ends: float = 1.0
    shown_from: float = 0.0
    shown_until: float = 2.0


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A background and up to four things; `kind` is one of SCENES or "still"."""

    kind: str
    background: str
    background_rgb: Rgb
    things: tuple[Thing, ...]
    swaps: bool = False


@dataclass(frozen=True, kw_only=True)
class Track:
    """One thing over T instants: centre and radius in units of the square, colour 0..255, visibility 0 or 1."""

    x: Floats
    y: Floats
    radius: Floats
    rgb: Floats
    visible: Floats


def track(thing: Thing, times: Floats) -> Track:
    """Follow one thing; arrays are [T], the colour is [T, 3]."""
    done = np.clip((times - thing.begins) / max(thing.ends - thing.begins, 1e-6), 0, 1).astype(np.float32)
    final_radius = thing.final_radius or thing.radius
    first, last = (np.array(rgb, np.float32) for rgb in (thing.rgb, thing.final_rgb or thing.rgb))
    visible = (times >= thing.shown_from - 1e-6) & (times < thing.shown_until - 1e-6)
    return Track(
        x=thing.x + thing.shift[0] * done,
        y=thing.y + thing.shift[1] * done,
        radius=thing.radius + (final_radius - thing.radius) * done,
        rgb=first + (last - first) * done[:, None],
        visible=visible.astype(np.float32),
    )


def sample_scene(random: Random, kind: str | None = None) -> Scene:
    """Draw one clip of the given kind, or of any kind."""
    kind = kind or random.choices(list(SCENES), list(SCENES.values()))[0]
    while True:
        things = _SAMPLERS[kind](random)
        swaps = kind == "sequence" and random.random() < 0.35
        if swaps:
            things = (replace(things[0], shown_until=things[1].shown_from), things[1])
        if swaps or _apart(things):
            return _on_background(random, kind, things, swaps)


def sample_still(random: Random) -> Scene:
    """Draw one picture of one to four resting shapes."""
    count = random.choices((1, 2, 3, 4), (4, 2, 2, 2))[0]
    while True:
        things = _resting(random, count)
        if _apart(things):
            return _on_background(random, "still", things, False)


def jittered(random: Random, rgb: Rgb, by: int) -> Rgb:
    """A neighbouring colour, so that no exact value has to be known."""
    red, green, blue = (min(255, max(0, value + random.randint(-by, by))) for value in rgb)
    return red, green, blue


def _on_background(random: Random, kind: str, things: tuple[Thing, ...], swaps: bool) -> Scene:
    background = random.choice(list(BACKGROUNDS))
    rgb = jittered(random, BACKGROUNDS[background], 8)
    return Scene(kind=kind, background=background, background_rgb=rgb, things=things, swaps=swaps)


def _resting(random: Random, count: int) -> tuple[Thing, ...]:
    colours = random.sample(list(COLOURS), count)
    distinct = random.random() < 0.7
    shapes = random.sample(SHAPES, count) if distinct else random.choices(SHAPES, k=count)
    smallest, largest = {1: (0.14, 0.25), 2: (0.14, 0.2), 3: (0.13, 0.17), 4: (0.125, 0.155)}[count]
    return tuple(
        _placed(random, colour, shape, random.uniform(smallest, largest))
        for colour, shape in zip(colours, shapes, strict=True)
    )


def _placed(random: Random, colour: str, shape: str, radius: float) -> Thing:
    return Thing(
        colour=colour,
        shape=shape,
        rgb=jittered(random, COLOURS[colour], 14),
        x=random.uniform(radius + MARGIN, 1 - radius - MARGIN),
        y=random.uniform(radius + MARGIN, 1 - radius - MARGIN),
        radius=radius,
        angle=random.uniform(-0.14, 0.14),
    )


def _moving(random: Random, thing: Thing, direction: str | None = None) -> Thing:
    """Let it travel at least 0.36 of the frame; the angle strays from the named direction by up to 9 degrees."""
    direction = direction or random.choice(list(DIRECTIONS))
    angle = np.arctan2(DIRECTIONS[direction][1], DIRECTIONS[direction][0]) + random.uniform(-0.16, 0.16)
    low, high = thing.radius + MARGIN, 1 - thing.radius - MARGIN
    length = random.uniform(0.36, 0.62)
    dx, dy = float(np.cos(angle) * length), float(np.sin(angle) * length)
    limit = high - low
    if max(abs(dx), abs(dy)) > limit:
        dx, dy = dx * limit / max(abs(dx), abs(dy)), dy * limit / max(abs(dx), abs(dy))
    x = random.uniform(low - min(dx, 0), high - max(dx, 0))
    y = random.uniform(low - min(dy, 0), high - max(dy, 0))
    begins, ends = _span(random)
    return replace(thing, action="moves", direction=direction, x=x, y=y, shift=(dx, dy), begins=begins, ends=ends)


def _acting(random: Random, thing: Thing, action: str) -> Thing:
    begins, ends = _span(random)
    instant = random.uniform(0.25, 0.7)
    if action == "moves":
        return _moving(random, thing)
    if action in ("grows", "shrinks"):
        small, large = random.uniform(0.08, 0.12), random.uniform(0.21, 0.28)
        start, end = (small, large) if action == "grows" else (large, small)
        x, y = (random.uniform(large + MARGIN, 1 - large - MARGIN) for _ in "xy")
        return replace(thing, action=action, x=x, y=y, radius=start, final_radius=end, begins=begins, ends=ends)
    if action == "appears":
        return replace(thing, action=action, shown_from=instant)
    if action == "disappears":
        return replace(thing, action=action, shown_until=instant)
    if action == "turns":
        final = random.choice([name for name in COLOURS if name != thing.colour])
        rgb = jittered(random, COLOURS[final], 14)
        return replace(thing, action=action, final_colour=final, final_rgb=rgb, begins=instant, ends=instant + 0.05)
    return thing


def _span(random: Random) -> tuple[float, float]:
    return random.uniform(0, 0.15), random.uniform(0.8, 1.0)


def _one_moving(random: Random) -> tuple[Thing, ...]:
    return (_moving(random, _resting(random, 1)[0]),)


def _one_resting(random: Random) -> tuple[Thing, ...]:
    return _resting(random, 1)


def _one_acting(random: Random) -> tuple[Thing, ...]:
    return (_acting(random, _resting(random, 1)[0], random.choice(ACTIONS[2:])),)


def _actor_and_rest(random: Random) -> tuple[Thing, ...]:
    things = list(_resting(random, random.choices((2, 3), (3, 1))[0]))
    action = "moves" if random.random() < 0.6 else random.choice(("grows", "shrinks", "disappears", "turns"))
    things[0] = _acting(random, things[0], action)
    if things[0].final_colour in {thing.colour for thing in things[1:]}:
        return _actor_and_rest(random)
    return tuple(things)


def _one_after_another(random: Random) -> tuple[Thing, ...]:
    first, second = _resting(random, 2)
    begins = random.choice((0.0, random.uniform(0, 0.25)))
    later = random.uniform(begins + 0.27, 0.75)
    return replace(first, shown_from=begins), replace(second, shown_from=later)


def _several_resting(random: Random) -> tuple[Thing, ...]:
    return _resting(random, random.choices((2, 3, 4), (3, 4, 4))[0])


_SAMPLERS = {
    "move": _one_moving,
    "rest": _one_resting,
    "act": _one_acting,
    "duo": _actor_and_rest,
    "sequence": _one_after_another,
    "many": _several_resting,
}


def _apart(things: tuple[Thing, ...]) -> bool:
    """Whether no two things ever touch."""
    tracks = [track(thing, PROBES) for thing in things]
    for index, one in enumerate(tracks):
        for other in tracks[:index]:
            distance = np.hypot(one.x - other.x, one.y - other.y)
            if (distance < (one.radius + other.radius) * 1.04 + MARGIN).any():
                return False
    return True
