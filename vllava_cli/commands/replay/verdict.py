"""What becomes of a row: the same answer, another one from some token on, or none. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from vllava_cli.choices import by_choice, shares
from vllava_cli.commands.replay.recorded import Entry, Recorded
from vllava_cli.nouns import StopReason, Turn

TOLERANCE = 1e-4
"""By how much the probability of a choice may differ."""


@dataclass(frozen=True, kw_only=True)
class Said:
    """An answer, then or now."""

    answer: str
    stop_reason: StopReason
    probabilities: Mapping[str, float]

    def row(self) -> dict[str, Any]:
        row = {"answer": self.answer, "stop_reason": self.stop_reason}
        return {**row, "probabilities": dict(self.probabilities)} if self.probabilities else row

    def line(self) -> str:
        """ "A red circle. (end)", "yes (yes 93%, no 7%)" """
        chances = self.probabilities
        return f"{self.answer} ({shares(tuple(chances), tuple(chances.values())) or self.stop_reason})"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """`now` is None where the answer can't be made again; then `reason` says why."""

    entry: Entry
    kind: Literal["same", "differs", "cannot"]
    then: Said | None = None
    now: Said | None = None
    token: int | None = None
    """The first that is another, from 1; None where only the text or a probability is."""
    reason: str = ""
    others: tuple[str, ...] = ()
    """Libraries that have other releases now."""

    def row(self) -> dict[str, Any]:
        """The object of --json."""
        return {
            "row": self.entry.number,
            "id": self.entry.id,
            "verdict": self.kind,
            "token": self.token,
            "then": self.then.row() if self.then else None,
            "now": self.now.row() if self.now else None,
            "reason": self.reason or None,
            "others": list(self.others),
        }

    def lines(self) -> str:
        """As text, a line each, both answers where they differ; a break inside of a text is a space."""
        return "".join(" ".join(line.splitlines()) + "\n" for line in self._lines())

    def _lines(self) -> tuple[str, ...]:
        name = self.entry.name
        if self.kind == "cannot":
            return (f"{name}: can't: {self.reason.removesuffix('.')}",)
        if self.kind == "same" or not (self.then and self.now):
            return (f"{name}: same",)
        place = f" at token {self.token}" if self.token else ""
        return (f"{name}: differs{place}", f"  then: {self.then.line()}", f"  now:  {self.now.line()}")


def refused(entry: Entry, reason: str, others: tuple[str, ...] = ()) -> Verdict:
    return Verdict(entry=entry, kind="cannot", reason=reason, others=others)


def compared(entry: Entry, then: Recorded, now: Turn, others: tuple[str, ...] = ()) -> Verdict:
    """The answer of a row held against the one that was made now."""
    chances = by_choice(now.sampling.choices, now.probabilities)
    token = None if then.probabilities else first_other(then, now)
    is_same = token is None and _is_text_same(then, now) and _are_close(then.probabilities, chances)
    return Verdict(
        entry=entry,
        kind="same" if is_same else "differs",
        then=Said(answer=then.answer, stop_reason=then.stop_reason, probabilities=then.probabilities),
        now=Said(answer=now.answer, stop_reason=now.stop_reason, probabilities=chances),
        token=token,
        others=others,
    )


def first_other(then: Recorded, now: Turn) -> int | None:
    """The place of the first token that is another, from 1; behind the last one where only the end is."""
    old, new = then.making.answer_ids, now.answer_ids
    if then.stop_reason == "interrupted":
        new = new[: len(old)]
    same = _shared(old, new)
    is_end_same = then.stop_reason in ("interrupted", now.stop_reason)
    return None if same == len(old) == len(new) and is_end_same else same + 1


def _is_text_same(then: Recorded, now: Turn) -> bool:
    """Of an answer that Ctrl-C stopped the text may lack its end."""
    return then.answer == now.answer or (then.stop_reason == "interrupted" and now.answer.startswith(then.answer))


def _are_close(then: Mapping[str, float], now: Mapping[str, float]) -> bool:
    return all(abs(part - now.get(choice, -1.0)) <= TOLERANCE for choice, part in then.items())


def _shared(left: Sequence[int], right: Sequence[int]) -> int:
    pairs = zip(left, right, strict=False)
    return next((place for place, (old, new) in enumerate(pairs) if old != new), min(len(left), len(right)))
