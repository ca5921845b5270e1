"""Compares two runs about the same questions: how often they agree, which one is right, and the rows that changed."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vllava_cli.batch.jobs import CHOICES
from vllava_cli.errors import UsageError
from vllava_cli.evaluate.answer_metrics import words_of
from vllava_cli.evaluate.gold_file import ID_KEYS, clip_key
from vllava_cli.evaluate.intervals import interval
from vllava_cli.evaluate.records import Record
from vllava_cli.evaluate.tally import ranked

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

_ERROR, _NO_GOLD = -1, -1
_STEP = 0x9E37_79B9_7F4A_7C15


class Side:
    """The rows of one of the two runs, as numbers: what each is about, what was answered, and whether it is right."""

    def __init__(self) -> None:
        self._questions, self._ids, self._clips, self._answers = (array("q") for _ in range(4))
        self._chosen, self._right = array("b"), array("b")

    def add(self, record: Record) -> None:
        row, path = record.values, record.path
        part = tuple(str(row.get(key)) for key in ("start_s", "end_s", "at_s"))
        self._clips.append(hash(path))
        self._questions.append(hash((path, part, record.question, tuple(row.get(CHOICES) or ()))))
        number = next((row[key] for key in ("job_id", *ID_KEYS[1:]) if row.get(key) is not None), None)
        self._ids.append(hash((clip_key(row), part, record.question if number is None else str(number))))
        has_answer = record.answer is not None and not record.error
        said = record.answer if record.choices else words_of(record.answer or "")
        self._answers.append(hash(said) if has_answer else _ERROR)
        is_choice = has_answer and record.chosen is not None
        self._chosen.append(min(record.chosen or 0, 127) if is_choice else _ERROR)
        self._right.append(_is_right(record) if record.gold is not None and not record.is_gold_unclear else _NO_GOLD)

    def keys(self, *, by_id: bool) -> NDArray[Any]:
        """Returns a number for each row that equals that of the same question in the other run.

        A question that is asked twice has two numbers, the first and the second time.
        """
        import numpy as np

        keys = np.frombuffer(self._ids if by_id else self._questions, np.int64)
        order = np.argsort(keys, kind="stable")
        is_first = np.append(True, keys[order][1:] != keys[order][:-1])
        starts = np.maximum.accumulate(np.where(is_first, np.arange(len(keys)), 0))
        repeats = np.empty(len(keys), np.uint64)
        repeats[order] = np.arange(len(keys)) - starts
        return keys.view(np.uint64) + repeats * np.uint64(_STEP)

    def columns(self, places: NDArray[Any]) -> tuple[NDArray[Any], ...]:
        """Returns the clips, answers, chosen places and rightness of some rows."""
        import numpy as np

        kinds = ((self._clips, np.int64), (self._answers, np.int64), (self._chosen, np.int8), (self._right, np.int8))
        return tuple(np.frombuffer(each, kind)[places] for each, kind in kinds)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two runs, and the places of the rows whose answers differ."""

    figures: dict[str, Any]
    changed: tuple[tuple[int, int], ...]


def compared(first: Side, second: Side) -> Comparison:
    """Compares the questions that both runs have. Errors: UsageError if there are none, or an extra is missing."""
    import numpy as np

    pairs: tuple[NDArray[Any], NDArray[Any]] = (np.empty(0, int), np.empty(0, int))
    for by_id in (False, True):
        keys = first.keys(by_id=by_id), second.keys(by_id=by_id)
        _, one, two = np.intersect1d(*keys, assume_unique=True, return_indices=True)
        if len(one) > len(pairs[0]):
            pairs = one, two
    if not len(pairs[0]):
        raise UsageError("--against has no question about a clip of the rows. Name a run with the same jobs.")
    order = np.argsort(pairs[0])
    one, two = pairs[0][order], pairs[1][order]
    clips, answers, chosen, right = first.columns(one)
    _, other_answers, other_chosen, other_right = second.columns(two)
    is_answered = (answers != _ERROR) & (other_answers != _ERROR)
    has_both = (chosen >= 0) & (other_chosen >= 0)
    figures = {
        "rows": len(one),
        "only_first": len(keys[0]) - len(one),
        "only_second": len(keys[1]) - len(two),
        "answered_by_both": int(is_answered.sum()),
        "agreement": float((answers == other_answers)[is_answered].mean()) if is_answered.any() else None,
        "kappa": _kappa(chosen[has_both], other_chosen[has_both]),
        **_contest(right, other_right, clips),
    }
    changed = np.flatnonzero(answers != other_answers)
    return Comparison(figures=figures, changed=tuple(zip(one[changed].tolist(), two[changed].tolist(), strict=True)))


def _contest(right: NDArray[Any], other: NDArray[Any], clips: NDArray[Any]) -> dict[str, Any]:
    """Counts who is right where the right answer is known; an error is a wrong answer."""
    known = (right >= 0) & (other >= 0)
    one, two = right[known] > 0, other[known] > 0
    only_one, only_two = int((one & ~two).sum()), int((two & ~one).sum())
    gain = two.astype(float) - one
    low, high = interval(gain, ranked(clips[known])) or (None, None) if len(gain) else (None, None)
    value = float(gain.mean()) if len(gain) else None
    return {
        "with_gold": len(gain),
        "both_right": int((one & two).sum()),
        "only_first_right": only_one,
        "only_second_right": only_two,
        "neither_right": int((~one & ~two).sum()),
        "gain": {"value": value, "low": low, "high": high, "rows": len(gain)},
        "mcnemar_p": _mcnemar(only_one, only_two) if len(gain) else None,
    }


def _mcnemar(only_one: int, only_two: int) -> float:
    """Returns the probability of a difference this large or larger if both were equally good."""
    try:
        from scipy.stats import binomtest
    except ImportError as exc:
        raise UsageError("--against needs scipy: pip install 'vllava[evaluate]'.") from exc
    either = only_one + only_two
    return float(binomtest(only_one, either).pvalue) if either else 1.0


def _kappa(one: NDArray[Any], two: NDArray[Any]) -> float | None:
    """Returns Cohen's kappa of the chosen places; None without choices, and where both only ever choose one place."""
    if not len(one) or len({*one.tolist(), *two.tolist()}) < 2:
        return None
    try:
        from sklearn.metrics import cohen_kappa_score
    except ImportError as exc:
        raise UsageError("--against needs scikit-learn: pip install 'vllava[evaluate]'.") from exc
    return float(cohen_kappa_score(one, two))


def _is_right(record: Record) -> bool:
    if record.answer is None or record.error:
        return False
    if record.choices:
        return record.chosen == record.right
    return words_of(record.answer) in [words_of(gold) for gold in record.golds]


def changed_rows(
    changed: Sequence[tuple[int, int]], first: Iterable[Record], second: Iterable[Record]
) -> list[dict[str, Any]]:
    """Returns the objects of changed rows, whose records are read again. Errors: those of the records."""
    ones, twos = _chosen(first, {one for one, _ in changed}), _chosen(second, {two for _, two in changed})
    return [_change(ones[one], twos[two]) for one, two in changed]


def _chosen(records: Iterable[Record], places: set[int]) -> dict[int, Record]:
    return {place: record for place, record in enumerate(records) if place in places}


def _change(one: Record, two: Record) -> dict[str, Any]:
    right = [name for name, each in (("first", one), ("second", two)) if each.gold is not None and _is_right(each)]
    return {
        "id": one.id,
        "other_id": two.id,
        "path": one.path,
        "question": one.question,
        "first": one.answer,
        "second": two.answer,
        "gold": one.gold,
        "right": ("both" if len(right) == 2 else right[0] if right else "neither") if one.gold is not None else None,
    }
