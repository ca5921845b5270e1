"""Asks about each sample of a clip, and joins the answers to one: that of the largest group, or none if it is small."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from vllava_cli.answers import (
    Agreeing,
    Agreement,
    Answer,
    Sampling,
)
from vllava_cli.engine.answering import AnswerEngine, AnswerRequest, Batching
from vllava_cli.nouns import Fit, Frames

_ARTICLES = ("a", "an", "the")
_APOSTROPHES = "'\N{RIGHT SINGLE QUOTATION MARK}"
ONE_PICTURE = "An image has only one picture, so that no sample differs from another."
ONE_VIEW = "All samples show the same frames, because the clip or its part has too few."


def folded(text: str) -> str:
    """Returns what must be equal in answers that agree: "The red circle moves left." → "red circle moves left".

    Case, articles, punctuation and space don't count, unless nothing else is there: "A." → "a", "?!" → "?!".
    """
    plain = unicodedata.normalize("NFKC", text).casefold()
    spaced = "".join(
        "" if letter in _APOSTROPHES else " " if unicodedata.category(letter).startswith("P") else letter
        for letter in plain
    )
    words = spaced.split()
    return " ".join([word for word in words if word not in _ARTICLES] or words) or plain.strip()


def distinct(samples: Mapping[float, Frames]) -> dict[float, Frames]:
    """Leaves out the samples, by their shifts, that show the same frames as one before them."""
    firsts: dict[tuple[float, ...], float] = {}
    for shift, frames in samples.items():
        firsts.setdefault(frames.times_s, shift)
    return {shift: samples[shift] for shift in firsts.values()}


def answers_about(
    engine: AnswerEngine, samples: Sequence[Frames], question: str, sampling: Sampling, fit: Fit
) -> list[Answer]:
    """Answers a question about each sample of a clip, side by side. Errors: any VllavaError."""
    given = [[AnswerRequest(key=number, medium=frames, question=question) for number, frames in enumerate(samples)]]
    rows = engine.rows_that_fit(sampling, question_characters=len(question))
    batching = Batching(sampling=sampling, fit=fit, most_rows=rows)
    found: dict[int, Answer] = {}
    for result in engine.answers(lambda _most, *, is_waiting: given.pop() if given else None, batching):  # noqa: ARG005
        if result.answer is None:
            raise result.fault or RuntimeError("a question gave neither an answer nor a fault")
        found[result.key] = result.answer
    return [found[number] for number in range(len(samples))]


def agreed(
    answers: Sequence[Answer], times_s: Sequence[tuple[float, ...]], wanted: Agreeing, sampling: Sampling, *, kind: str
) -> tuple[int, Answer]:
    """Joins the answers about the samples of a clip, which differ; the first is that about the unshifted sample.

    Returns the number of the sample whose answer is shown, and that answer with its agreement. The largest group of
    equal answers wins, on a tie the group of the first of them. With choices the likeliest in the mean wins. If the
    share of the samples that gave this answer is too small, the text is empty and the stop reason is "unsure".
    """
    texts = tuple(answer.text for answer in answers)
    if len(answers) == 1:
        reason = ONE_PICTURE if kind == "image" else ONE_VIEW
        return 0, replace(answers[0], agreement=Agreement(answers=texts, times_s=tuple(times_s), reason=reason))
    names, chances = [folded(text) for text in texts], ()
    best = Counter(names).most_common(1)[0][0]  # equally many: in the order in which they came
    if sampling.choices:
        columns = zip(*(answer.probabilities for answer in answers), strict=True)
        chances = tuple(sum(column) / len(answers) for column in columns)
        names, best = list(texts), sampling.choices[chances.index(max(chances))]
    members = [number for number, name in enumerate(names) if name == best]
    share, shown = len(members) / len(answers), (members or [0])[0]
    answer = replace(
        answers[shown],
        probabilities=chances,
        agreement=Agreement(share=share, answers=texts, times_s=tuple(times_s)),
    )
    if share < wanted.least_share:
        return shown, replace(answer, text="", ids=(), stop_reason="unsure")
    return shown, answer if members else replace(answer, text=best, ids=())
