"""Every question has one right answer, and what is kept from training stays out of it."""

from __future__ import annotations

import re
from dataclasses import replace
from random import Random

import pytest

from training.asking import Item, Medium, name, reference
from training.questions import items
from training.refusals import ADJECTIVES, NOUNS, PLACES, QUESTIONS, VERBS, part, refusal
from training.world import BACKGROUNDS, COLOURS, Scene, Thing, sample_scene

Answers = set[tuple[str, str]]


def thing(colour: str, shape: str, **changes: object) -> Thing:
    plain = Thing(colour=colour, shape=shape, rgb=COLOURS[colour], x=0.5, y=0.5, radius=0.15)
    return replace(plain, **changes)  # type: ignore[arg-type]


def scene(kind: str, *things: Thing) -> Scene:
    return Scene(kind=kind, background="white", background_rgb=BACKGROUNDS["white"], things=things)


def answers(shown: Scene, medium: Medium = "video") -> Answers:
    """(kind, answer) of every question but yes/no and follow-ups, which the other tests look at."""
    return {
        (item.kind, item.answer)
        for seed in range(20)
        for item in items(shown, Random(seed), medium)
        if item.kind not in ("yes/no", "image yes/no", "follow-up")
    }


def asked(count: int) -> list[tuple[Scene, Item]]:
    random = Random(8)
    videos = (sample_scene(random) for _ in range(count))
    return [(shown, item) for shown in videos for item in items(shown, random)]


SCENES: dict[str, tuple[Scene, str]] = {
    "a mover alone": (
        scene("move", thing("red", "circle", action="moves", direction="up-left")),
        "background: White. | count: One. | colour: Red. | shape: Circle. | direction: Up-left. "
        "| action: A red circle moves up-left. | action: It moves up-left.",
    ),
    "a thing at rest": (
        scene("rest", thing("blue", "star")),
        "background: White. | count: One. | colour: Blue. | shape: Star. | direction: It does not move. "
        "| action: Nothing moves.",
    ),
    "a thing that turns, whose colour is not asked": (
        scene("act", thing("blue", "star", action="turns", final_colour="red")),
        "background: White. | count: One. | shape: Star. | action: A blue star turns red. | action: It turns red.",
    ),
    "an actor and a thing at rest": (
        scene("duo", thing("green", "square", action="moves", direction="down"), thing("red", "square")),
        "background: White. | count: Two. | shape: Square. | direction beside another: Down. "
        "| direction beside another: It does not move. | action: A green square moves down. "
        "| action: It moves down. | action: Green square.",
    ),
    "one after another": (
        scene("sequence", thing("green", "square"), thing("yellow", "triangle", shown_from=0.5)),
        "background: White. | colour: Green. | colour: Yellow. | shape: Square. | shape: Triangle. "
        "| order: Green square. | order: Yellow triangle. "
        "| action: A green square appears, then a yellow triangle.",
    ),
}


@pytest.mark.parametrize("name", SCENES)
def test_all_that_can_be_asked_of_a_scene_is_asked(name: str) -> None:
    shown, told = SCENES[name]
    assert {f"{kind}: {answer}" for kind, answer in answers(shown)} == set(told.split(" | "))


def test_things_that_come_and_go_are_not_counted() -> None:
    assert not {("count", "One.")} & answers(scene("act", thing("red", "star", action="appears", shown_from=0.5)))


def test_a_picture() -> None:
    assert answers(scene("still", thing("red", "star"), thing("blue", "circle")), "image") == {
        ("image background", "White."),
        ("image count", "Two."),
        ("image colour", "Red."),
        ("image colour", "Blue."),
        ("image shape", "Star."),
        ("image shape", "Circle."),
    }


def test_follow_ups_ask_for_what_comes_next_and_what_came_before() -> None:
    shown = scene("sequence", thing("green", "square"), thing("yellow", "triangle", shown_from=0.5))
    found = {tuple(answer for _, answer in item.turns) for item in items(shown, Random(0)) if item.kind == "follow-up"}
    assert found == {("Green square.", "Yellow triangle."), ("Yellow triangle.", "Green square.")}


def test_yes_and_no_are_true() -> None:
    for shown, item in asked(400):
        found = re.match(r"(?:Is there|Do you see|Can you see) a (?:(\w+) )?(\w+)\?", item.question)
        if item.kind != "yes/no" or not found:
            continue
        colour, shape = found.groups()
        is_there = any(one.shape == shape and colour in (None, one.colour) for one in shown.things)
        assert item.answer == ("Yes." if is_there else "No.")


def test_a_reference_means_one_thing_only() -> None:
    random = Random(3)
    for _ in range(400):
        shown = sample_scene(random)
        for meant in shown.things:
            words = set(reference(meant, shown, random).split()) - {"shape", "object"}
            assert [one for one in shown.things if words <= set(name(one).split())] == [meant]


def test_nothing_is_asked_in_two_ways_at_once() -> None:
    assert all("{" not in question for _, item in asked(100) for question, _ in item.turns)


@pytest.mark.parametrize("words", [NOUNS, PLACES, VERBS, ADJECTIVES, QUESTIONS])
def test_every_word_is_either_trained_on_or_kept(words: tuple[str, ...]) -> None:
    trained, kept = set(part(words, held_out=False)), set(part(words, held_out=True))
    assert trained | kept == set(words)
    assert not trained & kept
    assert len(kept) >= len(words) // 6


def test_training_never_hears_a_kept_noun() -> None:
    random = Random(5)
    texts = [refusal(random).question for _ in range(3000)]
    heard = {word for text in texts for word in re.findall(r"[A-Za-z]+", text)}
    kept_words = {*part(NOUNS, held_out=True), *part(PLACES, held_out=True)} - {"language"}
    assert not heard & kept_words  # "What language do they speak?" is a question of its own
