"""What one `vllava bench` was told."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from vllava_cli.nouns import DEFAULT_MODEL, DecodeLimits, Wishes


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """Where the figures go beside the terminal, and what they are held against."""

    is_json: bool = False
    save: Path | None = None
    compare: Path | None = None
    """What --save wrote at another time."""
    plot: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """One way to load the model, as the options spell it, and what that means."""

    precision: str = "auto"
    attention: str = "auto"
    wishes: Wishes = field(default_factory=Wishes)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What one `vllava bench` was told."""

    clip: Path
    is_clip_ours: bool = False
    """No clip was given: it is one of the demo's."""
    question: str
    model: str = DEFAULT_MODEL
    revision: str | None = None
    adapter: str | None = None
    random: str | None = None
    """The name of shapes that get random weights, instead of a model."""
    configurations: tuple[Configuration, ...] = (Configuration(),)
    new_tokens: int = 64
    repeat: int = 5
    batches: tuple[int, ...] = (1, 4, 16)
    is_checked: bool = False
    limits: DecodeLimits = field(default_factory=DecodeLimits)
    outputs: Outputs = field(default_factory=Outputs)
