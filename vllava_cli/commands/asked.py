"""The request of one `vllava ask`. Nothing heavy is imported, so that a request reaches a server at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from vllava_cli.answers import Agreeing, Sampling
from vllava_cli.nouns import OFF, DecodeLimits, Framing, Subs, Wishes

AnswerForm = Literal["stream", "whole", "json"]


@dataclass(frozen=True, kw_only=True)
class Ask:
    """The request of one `vllava ask`."""

    clips: tuple[Path, ...]
    question: str
    wishes: Wishes
    framing: Framing
    sampling: Sampling
    limits: DecodeLimits = field(default_factory=DecodeLimits)
    output: AnswerForm = "stream"
    has_clip_cache: bool = True
    agreeing: Agreeing | None = None
    """How often the clip is sampled; None samples it once."""
    subs: Subs | None = None
    """Where what is spoken in the clip is read from; None reads nothing."""
    server: str = OFF
    """AUTO uses a server that runs, OFF none; else the URL of one."""
    keep_s: float | None = None
    """A server is started that stays for so long after the last question; None starts none."""
