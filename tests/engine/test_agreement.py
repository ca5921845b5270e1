"""Answers about several samples of a clip are joined: which agree, which is shown, and when there is none."""

from __future__ import annotations

import pytest

from tests.batch.parts import answer
from vllava_cli.answers import (
    Agreeing,
    Agreement,
    Answer,
    Sampling,
)
from vllava_cli.engine.agreement import agreed, folded


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("A red circle moves left.", "red circle moves left"),
        ("  the RED\tCircle;moves -- left !", "red circle moves left"),
        ("An apple", "apple"),
        ("up-left", "up left"),
        ("It's theirs, the dog\N{RIGHT SINGLE QUOTATION MARK}s.", "its theirs dogs"),
        ("3.5", "3 5"),
        ("Die Straße", "die strasse"),
        ("e\u0301te\u0301", "été"),
        ("गाड़ी।", "गाड़ी"),
        ("狗。", "狗"),
        ("A.", "a"),
        ("The", "the"),
        ("?!", "?!"),
        (" ", ""),
        ("C++", "c++"),
    ],
)
def test_what_of_an_answer_counts(text: str, plain: str) -> None:
    assert folded(text) == folded(plain)
    assert folded(text) != folded(text + " not")


def test_texts_that_differ_in_a_word_stay_different() -> None:
    told = ["A.", "B.", "", "The", "?", "C", "C++", "another", "an other", "35", "3.5", "गाड़ी", "गड़"]
    assert len({folded(text) for text in told}) == len(told)


def joined(*texts: str, least: float = 0.0) -> tuple[int, Answer]:
    times_s = [(float(number),) for number in range(len(texts))]
    return agreed(list(map(answer, texts)), times_s, Agreeing(samples=9, least_share=least), Sampling(), kind="video")


@pytest.mark.parametrize(
    ("texts", "shown", "told"),
    [
        ("a dog|The dog.|cat", 0, "2 of 3 agree"),
        ("cat|A dog.|dog", 1, "2 of 3 agree"),
        ("cat|dog|Dog|The cat|bird", 0, "2 of 5 agree"),
        ("bird|dog|cat|the cat|a dog", 1, "2 of 5 agree"),
        ("bird|dog|cat", 0, "1 of 3 agree"),
        ("dog|dog", 0, "2 of 2 agree"),
    ],
)
def test_the_largest_group_answers_and_the_unshifted_sample_speaks_for_it(texts: str, shown: int, told: str) -> None:
    said = texts.split("|")
    number, found = joined(*said)
    assert (number, found.text, found.stop_reason) == (shown, said[shown], "end")
    assert found.agreement and found.agreement.text == told
    assert found.agreement.answers == tuple(said) and found.agreement.times_s[1] == (1.0,)


@pytest.mark.parametrize(("least", "is_sure"), [(0.59, True), (0.6, True), (0.61, False), (1.0, False)])
def test_too_small_a_group_gives_no_answer(least: float, is_sure: bool) -> None:
    _, found = joined("dog", "cat", "dog", "bird", "dog", least=least)
    assert (found.text, found.stop_reason) == (("dog", "end") if is_sure else ("", "unsure"))
    assert found.agreement and found.agreement.share == 0.6
    assert is_sure or found.ids == ()


def chosen(chances: list[tuple[float, ...]], least: float = 0.0) -> Answer:
    choices = ("x", "y", "z")
    answers = [answer(choices[each.index(max(each))], probabilities=each) for each in chances]
    times_s = [(float(number),) for number in range(len(answers))]
    wanted = Agreeing(samples=9, least_share=least)
    return agreed(answers, times_s, wanted, Sampling(choices=choices), kind="video")[1]


def test_the_mean_of_the_probabilities_decides_and_the_samples_that_chose_it_are_counted() -> None:
    found = chosen([(0.5, 0.25, 0.25), (0.5, 0.5, 0.0), (0.0, 1.0, 0.0)])
    assert (found.text, found.probabilities) == ("y", (1.0 / 3, 1.75 / 3, 0.25 / 3))
    assert found.agreement and (found.agreement.text, found.agreement.answers) == ("1 of 3 agree", ("x", "x", "y"))
    unsure = chosen([(0.5, 0.25, 0.25), (0.5, 0.5, 0.0), (0.0, 1.0, 0.0)], least=0.5)
    assert (unsure.text, unsure.stop_reason, unsure.probabilities) == ("", "unsure", found.probabilities)
    nobody = chosen([(0.5, 0.0, 0.5 - 0.125), (0.0, 0.5, 0.5 - 0.125)])
    assert nobody.agreement and (nobody.text, nobody.agreement.text) == ("z", "0 of 2 agree")


@pytest.mark.parametrize("kind", ["image", "video"])
def test_one_sample_agrees_with_nothing_and_says_why(kind: str) -> None:
    number, found = agreed([answer("dog")], [(0.0,)], Agreeing(samples=5, least_share=1.0), Sampling(), kind=kind)
    assert (number, found.text, found.stop_reason) == (0, "dog", "end")
    reason = "An image has only one picture" if kind == "image" else "All samples show the same frames"
    assert isinstance(found.agreement, Agreement) and found.agreement.reason.startswith(reason)
