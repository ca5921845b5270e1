"""`vllava report`: shows the rows of a batch on one page of HTML, with the frames that the model saw."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from vllava_cli.nouns import DecodeLimits
from vllava_cli.screen import Screen


@dataclass(frozen=True, kw_only=True)
class ReportRequest:
    """The request of one `vllava report`."""

    rows: tuple[Path, ...]
    output: Path
    gold: Path | None = None
    is_overwriting: bool = False
    decoders: int | None = None
    limits: DecodeLimits = field(default_factory=DecodeLimits)


def run(request: ReportRequest, screen: Screen) -> int:
    """Returns the exit code. Errors: any VllavaError."""
    raise NotImplementedError
