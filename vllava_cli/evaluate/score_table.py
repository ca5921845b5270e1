"""Writes the figures of a score as chapters of a name and a sentence, for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from vllava_cli.nouns import counted
from vllava_cli.screen import one_line

MOST_CHANGED = 10
_LONGEST = 60
Chapter = tuple[str, list[tuple[str, str]]]
_NAMES = (
    ("choice", "accuracy", "choices"),
    ("open", "exact", "exact match"),
    ("open", "normalised", "normalised match"),
    ("open", "word_f1", "word F1"),
)


def chapters_of(found: Mapping[str, Any]) -> Iterator[Chapter]:
    """Yields the title of each chapter, "" for the first, and its rows."""
    yield "", [*_counts(found), *_kinds(found)]
    if calibration := found["calibration"]:
        yield "calibration", _calibration(calibration)
    fields = dict.fromkeys(group["field"] for group in found["groups"])
    for field in fields:
        groups = [group for group in found["groups"] if group["field"] == field]
        yield f"by {one_line(field)}", [(one_line(group["value"]), _group(group)) for group in groups]
    if against := found["against"]:
        yield f"against {one_line(against['file'])}", _against(against)


def _counts(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    errors = sum(found["errors"].values())
    kinds = ", ".join(f"{one_line(kind)} {count:,}" for kind, count in found["errors"].items())
    rows = f"{found['rows']:,} about {counted(found['clips'], 'clip')}: {counted(found['answered'], 'answer')}"
    rows += f", {counted(errors, 'error')} ({kinds})" if errors else ""
    gold = f"{found['with_gold']:,} known"
    gold += f", {found['without_gold']:,} not" if found["without_gold"] else ""
    gold += f", {found['unclear_gold']:,} unclear" if found["unclear_gold"] else ""
    return [("rows", rows), ("right answers", gold)]


def _kinds(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Writes the figures that rows have: ("choices", "75.0% (50.0 to 90.0) of 20, by chance 25.0%; …")."""
    rows = []
    for kind, key, name in _NAMES:
        if (its := found[kind]) is not None:
            chance = f", by chance {_percent(its['chance'])}" if its.get("chance") else ""
            errors = f"; {_with_ends(its[f'{key}_errors_wrong'])} with errors as wrong" if its["errors"] else ""
            rows.append((name, f"{_with_ends(its[key])} of {its[key]['rows']:,}{chance}{errors}"))
    if (its := found["yes_no"]) is not None:
        rows.append(("yes or no", f"{_with_ends(its['accuracy'])} of {its['accuracy']['rows']:,}"))
        scores = ", ".join(f"{name} {_percent(its[key])}" for key, name in _YES if its[key] is not None)
        neither = f", neither {its['neither']:,}" if its["neither"] else ""
        rows.append(("yes", f"{scores}{neither}"))
    return rows


_YES = (
    ("precision", "precision"),
    ("recall", "recall"),
    ("f1", "F1"),
    ("yes_share", "said"),
    ("gold_yes_share", "right"),
)


def _group(group: Mapping[str, Any]) -> str:
    its = ((name.removesuffix(" match"), group[kind][key]) for kind, key, name in _NAMES if group[kind] is not None)
    parts = [f"{name} {_with_ends(figure)}" for name, figure in its]
    if len(parts) == 1 and group["choice"]:
        parts = [_with_ends(group["choice"]["accuracy"])]
    errors = group["rows"] - group["answered"]
    counts = [counted(group["rows"], "row"), *([counted(errors, "error")] if errors else [])]
    return f"{', '.join(parts) or 'no right answers'}; {', '.join(counts)}"


def _calibration(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    means = f"confidence {_percent(found['confidence'])}, accuracy {_percent(found['accuracy'])}"
    rows = [("ECE", f"{found['ece']:.3f}, Brier {found['brier']:.3f}, {means} of {found['rows']:,}")]
    for each in found["bins"]:
        if each["rows"]:
            shares = f"confidence {_percent(each['confidence'])}, right {_percent(each['accuracy'])}"
            rows.append((f"{each['from']:.2f} to {each['to']:.2f}", f"{counted(each['rows'], 'answer')}, {shares}"))
    return rows


def _against(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    lacking = found["only_first"], found["only_second"]
    only = f"; {lacking[0]:,} and {lacking[1]:,} have no partner" if any(lacking) else ""
    kappa = "" if found["kappa"] is None else f", kappa {found['kappa']:.3f}"
    rows = [("pairs", f"{found['rows']:,}{only}")]
    if found["agreement"] is not None:
        rows.append(("agreement", f"{_percent(found['agreement'])} of {found['answered_by_both']:,}{kappa}"))
    if found["with_gold"]:
        sides = f"only these {found['only_first_right']:,}, only the other {found['only_second_right']:,}"
        rows.append(("right", f"both {found['both_right']:,}, {sides}, neither {found['neither_right']:,}"))
        gain = _with_ends(found["gain"], sign="+", unit=" points")
        rows.append(("gain of the other", f"{gain}, McNemar p = {found['mcnemar_p']:.3g}"))
    changed = found["changed"]
    rows.append(("changed", f"{counted(len(changed), 'answer')}{_more(changed)}"))
    rows += [("", _change(each)) for each in changed[:MOST_CHANGED]]
    return rows


def _more(changed: list[Any]) -> str:
    return f", of which the first {MOST_CHANGED}; --json has all" if len(changed) > MOST_CHANGED else ""


def _change(each: Mapping[str, Any]) -> str:
    answers = " → ".join("(error)" if each[side] is None else repr(_short(each[side])) for side in ("first", "second"))
    gold = "" if each["gold"] is None else f", right is {_short(each['gold'])!r}"
    return f"{one_line(each['path'])}: {_short(each['question'])} {answers}{gold}"


def _short(text: str) -> str:
    words = " ".join(one_line(text).split())
    return words if len(words) <= _LONGEST else f"{words[:_LONGEST]}…"


def _with_ends(figure: Mapping[str, Any], *, sign: str = "", unit: str = "%") -> str:
    """Writes a share with its interval: "75.0% (50.0 to 90.0)"; "no answers" without a value."""
    if figure["value"] is None:
        return "no answers"
    value = f"{100 * figure['value']:{sign}.1f}{unit}"
    if figure["low"] is None:
        return value
    return f"{value} ({100 * figure['low']:{sign}.1f} to {100 * figure['high']:{sign}.1f})"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"
