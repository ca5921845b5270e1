"""Hits, windows that show what was looked for: their scores, the lines and JSON rows that tell them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vllava_cli.nouns import Window
from vllava_cli.search.manner import HitClass, Place
from vllava_cli.times import span


@dataclass(frozen=True, kw_only=True)
class Hit:
    """A window, or an image, with the score of what was looked for in it."""

    path: str
    window: Window | None
    """None for an image."""
    query: str
    """The query that has this score: with --all the least likely, else each has a hit of its own."""
    question: str
    """The question that decided: of those of a query the one to which "yes" is least likely."""
    score: float
    """The probability of "yes"."""
    probabilities: tuple[float, float] | None
    """Those of "yes" and "no"; None if the model wasn't asked."""
    frame_times_s: tuple[float, ...] | None
    """The times of the frames that the model saw; None for an image. A still window has those of one before it."""
    kind: HitClass
    precision: str | None
    """That of the model which answered; None if none did."""
    is_still: bool = False
    """Whether nothing changes in it, so that it has the answer of the window before it."""

    place: Place = "picture"
    """Where it was found: a query that is said has the score 1."""
    has_rivals: bool = False
    """Whether there are other queries, so that the line must name this one."""

    @property
    def line(self) -> str:
        """The hit as a line without its end: "a.mp4:00:01:10-00:01:20  0.93"; " ?" behind it says that it is unsure."""
        times = f":{span(self.window.start_s, self.window.end_s)}" if self.window else ""
        unsure = " ?" if self.kind == "unsure" else ""
        several = f"  {self.query}" if self.has_rivals else ""
        return f"{self.path}{times}  {self.score:.2f}{unsure}{several}"

    def row(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        """The hit as an object for JSON; `facts` are those of the run that made it."""
        window, times_s = self.window, self.frame_times_s
        parts = self.probabilities
        return {
            "path": self.path,
            "start_s": round(window.start_s, 4) if window else None,
            "end_s": round(window.end_s, 4) if window else None,
            "title": (window.title or None) if window else None,
            "query": self.query,
            "question": self.question,
            "score": round(self.score, 6),
            "class": self.kind,
            "in": self.place,
            "probabilities": {"yes": round(parts[0], 6), "no": round(parts[1], 6)} if parts else None,
            "frame_times_s": None if times_s is None else [round(time_s, 4) for time_s in times_s],
            "still": self.is_still,
            **facts,
            "precision": self.precision,
        }
