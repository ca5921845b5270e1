"""The sections of a report, one for each clip or part of a clip: its questions with answers, gold and probabilities."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from vllava_cli.batch.jobs import CHOICES, CLIP_STATE, PATH_BYTES, ROW_KEYS, SUBS, WINDOW_KEYS
from vllava_cli.commands.provenance import AGREEMENT_KEYS, MADE_WITH
from vllava_cli.errors import OutputError
from vllava_cli.evaluate.answer_metrics import match
from vllava_cli.evaluate.gold import GOLD_KEYS
from vllava_cli.evaluate.records import Record
from vllava_cli.nouns import DEFAULT_MODEL, Fit, Framing
from vllava_cli.storage.fields import Fields
from vllava_cli.storage.session_file import read_framing
from vllava_cli.times import span

Verdict = Literal["right", "wrong", "differs", "unknown", "error"]
VERDICTS: Mapping[Verdict, str] = {
    "right": "Right",
    "wrong": "Wrong",
    "differs": "Differs",
    "unknown": "No right answer",
    "error": "Error",
}
MOST_VALUES = 40
"""A field, or the answers, with more different values than this can't be chosen from a list."""
MOST_LISTED = 3
_LARGEST = 1e12
_OWN = {*ROW_KEYS, *WINDOW_KEYS, *AGREEMENT_KEYS, *GOLD_KEYS, CHOICES, SUBS, PATH_BYTES}


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """One choice: its probability, None for an error, and whether it is the answer and the right one."""

    text: str
    share: float | None
    is_chosen: bool
    is_right: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """One row as the page shows it."""

    id: str
    question: str
    answer: str | None
    gold: str | None
    verdict: Verdict
    bars: tuple[Bar, ...]
    confidence: float | None
    """The probability of the answer; None without choices."""
    seconds: float | None
    kind: str | None
    """The kind of an error."""
    message: str
    groups: tuple[tuple[str, str], ...]
    """Pairs of a field of the job and its value."""


@dataclass(frozen=True, kw_only=True)
class Shot:
    """A clip as a row says that the model saw it."""

    path: str
    framing: Framing
    model: str
    is_known: bool = True
    """False if the row doesn't say how the clip was shown, as that of an error; then the framing is the usual one."""
    state: tuple[int, int] | None = field(default=None, compare=False)
    """The size of the file in bytes and the time of its last change in nanoseconds, when the row was made."""
    times_s: tuple[float, ...] = field(default=(), compare=False)


@dataclass(kw_only=True)
class Section:
    """A clip or a part of it, and the rows about it."""

    shot: Shot
    part: str = ""
    """The part of the clip that the questions are about: "00:00:01-00:00:02  Kitchen"."""
    asked: list[Shown] = field(default_factory=list)

    @property
    def is_guessed(self) -> bool:
        """True if it has answers that don't say which frames the model saw."""
        return not self.shot.is_known and any(row.kind is None for row in self.asked)

    @property
    def name(self) -> tuple[str, str]:
        """The folder and the name of the clip: a/b/c.mp4 → ("a/b/", "c.mp4")."""
        folder, slash, name = self.shot.path.rstrip("/").rpartition("/")
        return folder + slash, name


@dataclass(kw_only=True)
class Contents:
    """All that a page shows but the pictures."""

    sections: list[Section] = field(default_factory=list)
    facts: dict[str, Counter[str]] = field(default_factory=dict)
    """The settings of the run: a name, and how many rows have each value."""
    verdicts: Counter[Verdict] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    groups: dict[str, Counter[str]] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return self.verdicts.total()

    @property
    def settings(self) -> Iterator[tuple[str, str]]:
        """Pairs of a setting and its values, the most frequent first; of many only some are named."""
        for name, values in self.facts.items():
            named = [value for value, _ in values.most_common(MOST_LISTED)]
            more = len(values) - len(named)
            yield name, ", ".join(named) + (f" and {more} more" if more else "")

    @property
    def chosen_by(self) -> dict[str, list[str]]:
        """The fields by whose values rows can be chosen, those with few enough values, and the values in order."""
        few = {name: values for name, values in self.groups.items() if 1 < len(values) <= MOST_VALUES}
        return {name: sorted(values) for name, values in few.items()}

    @property
    def group_values(self) -> list[tuple[str, str]]:
        return [(name, value) for name, values in self.chosen_by.items() for value in values]

    @property
    def listed_answers(self) -> list[str]:
        return sorted(self.answers) if 1 < len(self.answers) <= MOST_VALUES else []


def contents_of(records: Iterable[Record]) -> Contents:
    """Groups records by what the model was shown; an error, which doesn't say it, joins the answers about its part."""
    found = Contents()
    known: dict[object, Section] = {}
    by_part: dict[object, Section] = {}
    loose: list[tuple[Section, object]] = []
    for record in records:
        shot, part = _shot(record), _part(record.values)
        place = record.path, part
        section = known.get((shot, part))
        if section is None:
            section = known[shot, part] = Section(shot=shot, part=part)
            found.sections.append(section)
            if shot.is_known:
                by_part.setdefault(place, section)
            else:
                loose.append((section, place))
        section.asked.append(_noted(record, found))
    for section, where in loose:
        if other := by_part.get(where):
            other.asked += [row for row in section.asked if row.kind]
            section.asked = [row for row in section.asked if not row.kind]
    found.sections = [section for section in found.sections if section.asked]
    return found


def _noted(record: Record, found: Contents) -> Shown:
    """Makes what is shown of a record, and counts it."""
    shown = _shown(record)
    found.verdicts[shown.verdict] += 1
    if shown.kind:
        found.errors[shown.kind] += 1
    if shown.answer is not None:
        _count(found.answers, shown.answer)
    for name, value in shown.groups:
        _count(found.groups.setdefault(name, Counter()), value)
    for name, value in _facts(record.values):
        _count(found.facts.setdefault(name, Counter()), value)
    return shown


def _count(counts: Counter[str], value: str) -> None:
    """Counts a value, but keeps few values that are of no use because there are too many."""
    if value in counts or len(counts) <= MOST_VALUES:
        counts[value] += 1


def _shown(record: Record) -> Shown:
    shares = record.probabilities or (None,) * len(record.choices)
    bars = tuple(
        Bar(text=text, share=_number(share), is_chosen=place == record.chosen, is_right=place == record.right)
        for place, (text, share) in enumerate(zip(record.choices, shares, strict=False))
    )
    return Shown(
        id=record.id,
        question=record.question,
        answer=record.answer,
        gold=record.gold,
        verdict=verdict_of(record),
        bars=bars,
        confidence=next((bar.share for bar in bars if bar.is_chosen), None),
        seconds=_number(record.values.get("seconds")),
        kind=record.error,
        message=str(_object(record.values.get("error")).get("message", "")),
        groups=tuple((str(name), _text(value)) for name, value in record.values.items() if _is_group(name, value)),
    )


def verdict_of(record: Record) -> Verdict:
    """Compares an answer with the right one: choices by their places, other texts by their words in order."""
    if record.error is not None:
        return "error"
    if record.right is not None:
        return "right" if record.chosen == record.right else "wrong"
    if not record.golds or record.choices or record.answer is None:
        return "unknown"
    return "right" if match(record.answer, record.golds).normalised else "differs"


def _is_group(name: str, value: object) -> bool:
    return name not in _OWN and isinstance(value, str | int) and len(str(value)) <= 80


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(value: object) -> float | None:
    """Returns a number that a time or a share may be; None for anything else, also NaN and what is far too large."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return float(value) if abs(value) < _LARGEST else None


def _part(row: Mapping[str, Any]) -> str:
    start_s, end_s, title = _number(row.get("start_s")), _number(row.get("end_s")), row.get("title")
    times = span(start_s, end_s) if start_s is not None and end_s is not None else ""
    return "  ".join(filter(None, [times, str(title) if times and title else ""]))


def _shot(record: Record) -> Shot:
    row, framing = record.values, _framing(record.values)
    state = _object(row.get(CLIP_STATE))
    size, mtime_ns = state.get("bytes"), state.get("mtime_ns")
    return Shot(
        path=record.path,
        framing=framing or Framing(start_s=_number(row.get("start_s")), end_s=_number(row.get("end_s"))),
        model=str(row.get("model") or DEFAULT_MODEL),
        is_known=framing is not None,
        state=(size, mtime_ns) if isinstance(size, int) and isinstance(mtime_ns, int) else None,
        times_s=_times(row.get("frame_times_s")),
    )


def _times(value: object) -> tuple[float, ...]:
    times = [_number(each) for each in value] if isinstance(value, list) else []
    return tuple(time_s for time_s in times if time_s is not None)


def _framing(row: Mapping[str, Any]) -> Framing | None:
    """Reads how the clip was shown; None if the row doesn't say it."""
    try:
        made = Fields(row, "row", error=OutputError).inside(MADE_WITH)
        fit = made.one_of("fit", get_args(Fit))
        shown = made.each("clips", lambda clips, place: read_framing(clips.inside(place), fit))
    except OutputError:
        return None
    return shown[0] if len(shown) == 1 else None


def _facts(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yields the settings that a row names, as the head of the page shows them."""
    made = _object(row.get(MADE_WITH))
    sampling, versions = _object(made.get("sampling")), _object(made.get("versions"))
    found = {
        "Model": row.get("model"),
        "Revision": row.get("revision"),
        "Precision": row.get("precision"),
        "Device": made.get("device"),
        "Quantisation": made.get("quantisation"),
        "Fit": made.get("fit"),
        "Sampling": _sampling(sampling) if sampling else None,
        "Versions": ", ".join(f"{name} {text}" for name, text in versions.items()) if versions else None,
    }
    yield from ((name, str(value)) for name, value in found.items() if value)


def _sampling(sampling: Mapping[str, Any]) -> str:
    if sampling.get("choices"):
        return "the likeliest of the choices" + (", calibrated" if sampling.get("is_calibrated") else "")
    temperature = _number(sampling.get("temperature")) or 0.0
    drawn = f"temperature {temperature:g}, top-p {sampling.get('top_p')}" if temperature else "greedy"
    return f"{drawn}, at most {sampling.get('max_new_tokens')} tokens"
