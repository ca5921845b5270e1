"""A reference means one thing, wording changes little, and what is kept from training stays out of it."""

from __future__ import annotations

import re
from random import Random

import pytest

from training.asking import Item, name, reference
from training.questions import items, worded
from training.refusals import ADJECTIVES, NOUNS, PLACES, QUESTIONS, REFUSAL, VERBS, part, refusal
from training.world import Scene, sample_scene


def asked(count: int) -> list[tuple[Scene, Item]]:
    random = Random(8)
    videos = (sample_scene(random) for _ in range(count))
    return [(shown, item) for shown in videos for item in items(shown, random)]


def test_yes_and_no_are_about_as_frequent() -> None:
    said = [item.answer for _, item in asked(400) if item.kind == "yes/no"]
    assert 0.4 < said.count("Yes.") / len(said) < 0.6


def test_a_reference_means_one_thing_only() -> None:
    random = Random(3)
    for _ in range(400):
        shown = sample_scene(random)
        for meant in shown.things:
            words = set(reference(meant, shown, random).split()) - {"shape", "object"}
            assert [one for one in shown.things if words <= set(name(one).split())] == [meant]


def test_nothing_is_asked_in_two_ways_at_once() -> None:
    assert all("{" not in question for _, item in asked(100) for question, _ in item.turns)


def test_wording_changes_only_the_first_letter_and_the_end() -> None:
    item = Item(kind="colour", turns=(("What colour is it?", "Red."),))
    variants = {worded(item, Random(seed)).question for seed in range(200)}
    assert variants == {"What colour is it?", "What colour is it", "what colour is it?", "what colour is it"}


def test_refusals_always_say_the_same() -> None:
    assert {refusal(Random(seed)).answer for seed in range(50)} == {REFUSAL}


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
