"""Questions that are answered "Yes." or "No.", each about half of the time."""

from random import Random

from training import wordings
from training.asking import Item, Medium, fill, item
from training.world import BACKGROUNDS, COLOURS, DIRECTIONS, SHAPES, Scene, Thing

VERBS = {"grows": "grow", "shrinks": "shrink", "appears": "appear", "disappears": "disappear"}


def yes_or_no(scene: Scene, random: Random, medium: Medium) -> list[Item]:
    """What is there, which colour it has, what is behind it and, in videos of one actor or thing, what it does."""
    random.random()  # a draw that nothing needs, kept for the order of the rest
    asked = _about_a_thing(scene, random)
    asked += [_about_a_shape(scene, random)]
    asked += _about_a_colour(scene, random)
    asked += [_about_the_background(scene, random)]
    if medium == "video" and scene.kind in ("move", "rest"):
        asked += _about_motion(scene.things[0], random)
    if medium == "video" and scene.kind in ("move", "rest", "act"):
        asked += [_about_an_action(scene.things[0], random)]
    return asked


def _answered(is_so: bool, question: str) -> Item:
    return item("yes/no", (question, "Yes." if is_so else "No."))


def _about_a_thing(scene: Scene, random: Random) -> list[Item]:
    """Things that turn are left out: they have two colours."""
    if random.random() < 0.5:
        thing = random.choice(scene.things)
        if thing.action == "turns":
            return []
        return [_answered(True, fill(random, wordings.IS_THERE, c=thing.colour, s=thing.shape))]
    colour, shape = _another(scene, random)
    is_there = any((thing.colour, thing.shape) == (colour, shape) for thing in scene.things)
    if is_there or any(thing.action == "turns" for thing in scene.things):
        return []
    return [_answered(False, fill(random, wordings.IS_THERE, c=colour, s=shape))]


def _another(scene: Scene, random: Random) -> tuple[str, str]:
    """Any colour and shape, often half right."""
    colour, shape = random.choice(list(COLOURS)), random.choice(SHAPES)
    thing = random.choice(scene.things)
    if random.random() < 0.6:
        return (thing.colour, shape) if random.random() < 0.5 else (colour, thing.shape)
    return colour, shape


def _about_a_shape(scene: Scene, random: Random) -> Item:
    present = {thing.shape for thing in scene.things}
    is_wanted = random.random() < 0.5
    shape = random.choice([shape for shape in SHAPES if (shape in present) == is_wanted] or list(SHAPES))
    return _answered(shape in present, fill(random, wordings.IS_THERE_SHAPE, s=shape))


def _about_a_colour(scene: Scene, random: Random) -> list[Item]:
    thing = scene.things[0]
    if len(scene.things) > 1 or thing.action == "turns":
        return []
    colour = thing.colour if random.random() < 0.5 else random.choice(list(COLOURS))
    return [_answered(colour == thing.colour, fill(random, wordings.IS_COLOUR, c=colour, s=thing.shape))]


def _about_the_background(scene: Scene, random: Random) -> Item:
    colour = scene.background if random.random() < 0.5 else random.choice(list(BACKGROUNDS))
    return _answered(colour == scene.background, fill(random, wordings.IS_BACKGROUND, c=colour))


def _about_motion(thing: Thing, random: Random) -> list[Item]:
    asked = [_answered(thing.direction is not None, fill(random, wordings.DOES_MOVE, s=thing.shape))]
    if thing.direction:
        way = thing.direction if random.random() < 0.5 else random.choice(list(DIRECTIONS))
        question = fill(random, wordings.DOES_MOVE_TO, d=way, s=thing.shape)
        asked.append(_answered(way == thing.direction, question))
    return asked


def _about_an_action(thing: Thing, random: Random) -> Item:
    is_wanted = random.random() < 0.5 and thing.action in VERBS
    action = thing.action if is_wanted else random.choice(list(VERBS))
    return _answered(action == thing.action, fill(random, wordings.DOES_ACT, v=VERBS[action], s=thing.shape))
