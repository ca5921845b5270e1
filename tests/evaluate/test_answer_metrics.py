"""Open answers beside right ones."""

from __future__ import annotations

import pytest

from vllava_cli.evaluate.answer_metrics import match, word_f1, words_of, yes_or_no


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The man's two dogs.", "mans 2 dogs"),
        ("  A   red\nBALL!", "red ball"),
        ("an", "an"),
        ("twenty-one", "20 1"),
        ("É\u2019tait 3.5", "était 3 5"),
        ("...", ""),
    ],
)
def test_words_are_normalised(text: str, words: str) -> None:
    assert " ".join(words_of(text)) == words


@pytest.mark.parametrize(
    ("answer", "golds", "figures"),
    [
        ("red", ("red",), (1, 1, 1)),
        (" Red. ", ("red",), (0, 1, 1)),
        ("a red ball", ("the ball",), (0, 0, 2 / 3)),
        ("ball ball", ("ball",), (0, 0, 2 / 3)),
        ("ball ball red", ("red ball ball",), (0, 0, 1)),
        ("blue", ("red", "blue"), (1, 1, 1)),
        ("two", ("2",), (0, 1, 1)),
        ("", ("red",), (0, 0, 0)),
        ("!", ("?",), (0, 1, 1)),
    ],
)
def test_an_answer_is_compared_with_the_right_answer_that_fits_best(
    answer: str, golds: tuple[str, ...], figures: tuple[float, float, float]
) -> None:
    assert match(answer, golds) == pytest.approx(figures)


def test_word_f1_is_the_harmonic_mean_of_precision_and_recall() -> None:
    found, gold = ["a", "b", "c", "d"], ["b", "d", "e"]
    precision, recall = 2 / 4, 2 / 3
    assert word_f1(found, gold) == pytest.approx(2 / (1 / precision + 1 / recall))


@pytest.mark.parametrize(
    ("text", "said"), [("Yes, it does.", "yes"), ("NO", "no"), ("The yes", "yes"), ("I see no dog", None), ("", None)]
)
def test_yes_and_no_are_first_words(text: str, said: str | None) -> None:
    assert yes_or_no(text) == said
