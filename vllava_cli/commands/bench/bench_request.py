"""The request of one `vllava bench`, and what the words of its command line mean together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vllava_cli import demo
from vllava_cli.commands.start import names_a_clip
from vllava_cli.engine.measuring.figures import BenchTask
from vllava_cli.errors import UsageError
from vllava_cli.nouns import DEFAULT_MODEL, STDIN, DecodeLimits, Wishes

USAGE = 'vllava bench [CLIP] ["QUESTION"]'
QUESTION = "What happens in this video?"
DEMO_CLIP = demo.CLIPS / "red-circle-moves-left.mp4"


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """One way to load the model: as the options spell it, and as wishes."""

    precision: str = "auto"
    attention: str = "auto"
    wishes: Wishes


@dataclass(frozen=True, kw_only=True)
class Bench:
    """One `vllava bench`. Without a clip, one of the demo's is measured; `random` names shapes instead of a model."""

    clip: Path | None = None
    model: str = DEFAULT_MODEL
    revision: str | None = None
    adapter: str | None = None
    random: str | None = None
    configurations: tuple[Configuration, ...]
    task: BenchTask
    is_checked: bool = False
    limits: DecodeLimits = field(default_factory=DecodeLimits)
    is_json: bool = False
    save: Path | None = None
    compare: Path | None = None
    plot: Path | None = None

    def __post_init__(self) -> None:
        """Errors: UsageError."""
        if self.plot is None:
            return
        if self.plot.suffix.lower() != ".png":
            raise UsageError(f"--plot writes PNG, and {self.plot.name!r} doesn't end in .png: name it so.")
        if self.plot in (self.save, self.compare):
            raise UsageError(f"--plot would replace what is in {self.plot.name!r}: name another file.")


def words_of(words: Sequence[str]) -> tuple[Path | None, str]:
    """[] → None, the usual question · ["a.mp4"] → a.mp4, it · ["Why?"] → None, "Why?" · ["a.mp4", "Why?"] → both.

    Errors: UsageError.
    """
    if len(words) > 2:
        raise UsageError(f"bench measures with one clip and one question, and {len(words)} words were given: {USAGE}.")
    if STDIN in words:
        raise UsageError("A clip from stdin, -, is read once, and bench reads it often: save it to a file, name that.")
    has_clip = len(words) == 2 or (len(words) == 1 and names_a_clip(words[0]))
    question = QUESTION if len(words) == has_clip else words[-1]
    if not question.strip():
        raise UsageError(f"The question is empty: {USAGE}.")
    return (Path(words[0]) if has_clip else None), question
