"""What questions are made of: the item, the ways to name a thing, and the words for what it does."""

from dataclasses import dataclass
from random import Random
from typing import Literal

from training.wordings import Wordings
from training.world import Scene, Thing

Medium = Literal["video", "image"]
NOT_MOVING = "It does not move."


@dataclass(frozen=True, kw_only=True)
class Item:
    """Turns of (question, answer) about one scene; the last is the question that counts, of the given kind."""

    kind: str
    turns: tuple[tuple[str, str], ...]

    @property
    def question(self) -> str:
        return self.turns[-1][0]

    @property
    def answer(self) -> str:
        return self.turns[-1][1]


def item(kind: str, *turns: tuple[str, str]) -> Item:
    return Item(kind=kind, turns=turns)


def fill(random: Random, choices: Wordings, **words: str) -> str:
    """One of the wordings with its gaps filled: "Is it {c}?", c="red" → "Is it red?"."""
    return random.choice(choices).format(**words)


def sentence(words: str) -> str:
    """red circle → Red circle."""
    return f"{words[:1].upper()}{words[1:]}."


def name(thing: Thing) -> str:
    return f"{thing.colour} {thing.shape}"


def reference(thing: Thing, scene: Scene, random: Random) -> str:
    """A name that only this thing of the scene has: "circle", "red circle", "red shape"."""
    names = [name(thing)]
    if has_own_shape(thing, scene):
        names += [thing.shape, thing.shape]
    if thing.action != "turns":
        names += [f"{thing.colour} shape", f"{thing.colour} object"]
    return random.choice(names)


def has_own_shape(thing: Thing, scene: Scene) -> bool:
    return sum(other.shape == thing.shape for other in scene.things) == 1


def stays_in_view(thing: Thing) -> bool:
    return thing.action not in ("appears", "disappears") and thing.shown_from == 0 and thing.shown_until > 1


def way(thing: Thing) -> str:
    """The answer to "Which way does it move?": "Up-left."."""
    return sentence(thing.direction) if thing.direction else NOT_MOVING


def deed(thing: Thing) -> str:
    """moves up-left · turns red · grows"""
    if thing.action == "moves":
        return f"moves {thing.direction}"
    return f"turns {thing.final_colour}" if thing.action == "turns" else thing.action
