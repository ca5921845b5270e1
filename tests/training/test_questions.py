"""A reference means one thing, and what is kept from training stays out of it."""

from __future__ import annotations

import re
from random import Random

import pytest

from training.asking import name, reference
from training.questions import items
from training.refusals import ADJECTIVES, NOUNS, PLACES, QUESTIONS, VERBS, part, refusal
from training.world import sample_scene


def test_a_reference_means_one_thing_only() -> None:
    random = Random(3)
    for _ in range(400):
        shown = sample_scene(random)
        for meant in shown.things:
            words = set(reference(meant, shown, random).split()) - {"shape", "object"}
            assert [one for one in shown.things if words <= set(name(one).split())] == [meant]


def test_nothing_is_asked_in_two_ways_at_once() -> None:
    random = Random(8)
    every = [item for _ in range(100) for item in items(sample_scene(random), random)]
    assert all("{" not in question for item in every for question, _ in item.turns)


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
