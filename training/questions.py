"""Every question that fits a scene, in many wordings, with the one right answer to each.

Answers to the same question differ at their first token where they can: "Up-left." and "Left.", never "To the …".
The order of the random draws is part of the recipe: the shipped weights were trained on what it gives.
"""

from dataclasses import replace
from random import Random

from training import wordings
from training.asking import (
    Item,
    Medium,
    deed,
    fill,
    has_own_shape,
    item,
    name,
    reference,
    sentence,
    stays_in_view,
    way,
)
from training.world import Scene, Thing
from training.yes_no import yes_or_no

NUMBERS = ("Zero", "One", "Two", "Three", "Four")
NOTHING_MOVES = "Nothing moves."


def items(scene: Scene, random: Random, medium: Medium = "video") -> list[Item]:
    """Every kind of question that fits a scene, each in a random wording; kinds about an image begin with "image "."""
    asked = _looks(scene, random, medium) + yes_or_no(scene, random, medium)
    if medium == "image":
        if len(scene.things) == 1:  # two draws that nothing needs, kept for the order of the rest
            random.choice(wordings.COLOUR_ONE), random.choice(wordings.SHAPE_NAMELESS)
        return [replace(one, kind=f"image {one.kind}") for one in asked]
    asked += _directions(scene, random)
    asked += _order(scene, random) if scene.kind == "sequence" else _actions(scene, random)
    return asked + _follow_ups(scene, random)


def worded(asked: Item, random: Random) -> Item:
    """The same, now and then without the question mark or the capital."""
    return replace(asked, turns=tuple((_careless(question, random), answer) for question, answer in asked.turns))


def _careless(question: str, random: Random) -> str:
    if random.random() < 0.15:
        question = question.rstrip("?.!")
    if random.random() < 0.15:
        question = question[:1].lower() + question[1:]
    return question


def _looks(scene: Scene, random: Random, medium: Medium) -> list[Item]:
    """Background, count, and the colour and shape of each thing where the question can mean only that one."""
    word = random.choice(("video", "clip") if medium == "video" else ("picture", "image"))
    asked = [item("background", (random.choice(wordings.BACKGROUND), sentence(scene.background)))]
    if all(stays_in_view(thing) for thing in scene.things):
        number = NUMBERS[len(scene.things)]
        asked.append(item("count", (fill(random, wordings.COUNT, m=word), sentence(number))))
    for thing in scene.things:
        asked += _colour_and_shape(thing, scene, random)
    return asked


def _colour_and_shape(thing: Thing, scene: Scene, random: Random) -> list[Item]:
    """A thing that turns has no one colour: its colour isn't asked, and its shape only where it is alone."""
    is_alone = len(scene.things) == 1
    if thing.action == "turns":
        return [item("shape", (random.choice(wordings.SHAPE_NAMELESS), sentence(thing.shape)))] if is_alone else []
    asked = []
    if is_alone or has_own_shape(thing, scene):
        choices = wordings.COLOUR_ONE if is_alone else wordings.COLOUR_OF
        asked.append(item("colour", (fill(random, choices, s=thing.shape), sentence(thing.colour))))
    choices = wordings.SHAPE_ONE if is_alone else wordings.SHAPE_OF
    return [*asked, item("shape", (fill(random, choices, c=thing.colour), sentence(thing.shape)))]


def _directions(scene: Scene, random: Random) -> list[Item]:
    thing = scene.things[0]
    if scene.kind in ("move", "rest"):
        asked = [fill(random, wordings.DIRECTION_ONE, s=thing.shape) for _ in range(2)]
        return [item("direction", (question, way(thing))) for question in asked]
    found = []
    for thing in scene.things[:2] if scene.kind == "duo" else ():
        named = reference(thing, scene, random)
        if thing.action in ("moves", "rests"):
            found.append(item("direction beside another", (fill(random, wordings.DIRECTION_OF, s=named), way(thing))))
    return found


def _order(scene: Scene, random: Random) -> list[Item]:
    one, two = scene.things
    first, second = sentence(name(one)), sentence(name(two))
    what = f"A {name(one)} appears, then a {name(two)}."
    return [
        item("order", (random.choice(wordings.FIRST), first)),
        item("order", (fill(random, wordings.LAST_OF, s=name(one)), second)),
        item("order", (fill(random, wordings.BEFORE, s=name(two)), first)),
        item("action", (random.choice(wordings.WHAT_HAPPENS), what)),
        item("follow-up", (random.choice(wordings.FIRST), first), (random.choice(wordings.THEN), second)),
        item("follow-up", (random.choice(wordings.LAST), second), (random.choice(wordings.EARLIER), first)),
    ]


def _actions(scene: Scene, random: Random) -> list[Item]:
    what = random.choice(wordings.WHAT_HAPPENS)
    actor = next((thing for thing in scene.things if thing.action != "rests"), None)
    if actor is None:
        return [item("action", (what, NOTHING_MOVES))]
    is_alone = len(scene.things) == 1
    named = reference(actor, scene, random)
    does = fill(random, wordings.DOES_ONE if is_alone else wordings.DOES, s=named)
    asked = [
        item("action", (what, f"A {name(actor)} {deed(actor)}.")),
        item("action", (does, f"It {deed(actor)}.")),
    ]
    return asked + (_which_moves(actor, random) if actor.action == "moves" and not is_alone else [])


def _which_moves(actor: Thing, random: Random) -> list[Item]:
    asked, again = (random.choice(wordings.WHICH_MOVES) for _ in range(2))
    mover = sentence(name(actor))
    follow_up = (random.choice(wordings.AND_WHERE), way(actor))
    return [item("action", (asked, mover)), item("follow-up", (again, mover), follow_up)]


def _follow_ups(scene: Scene, random: Random) -> list[Item]:
    """Two pairs of questions about a scene's only thing, the second without naming it."""
    thing = scene.things[0]
    if len(scene.things) > 1 or thing.action == "turns":
        return []
    facts = [
        (sentence(thing.colour), wordings.COLOUR_NAMELESS, wordings.AND_COLOUR),
        (sentence(thing.shape), wordings.SHAPE_ASKED, wordings.AND_SHAPE),
        (sentence(scene.background), wordings.BACKGROUND[:6], wordings.AND_BACKGROUND),
    ]
    if scene.kind in ("move", "rest"):
        facts.append((way(thing), wordings.DIRECTION_ONE[:6], wordings.AND_DIRECTION))
    asked = []
    for _ in range(2):
        (answer, openings, _), (later, _, continuations) = random.sample(facts, 2)
        turns = ((random.choice(openings), answer), (random.choice(continuations), later))
        asked.append(item("follow-up", *turns))
    return asked
