"""Our engine and the snippet's model in one process, around the same weights.

The snippet's model is loaded first. What ours supplies as well is freed before ours is loaded, so that the weights are
never held twice; then the snippet's modules become ours, so that both can take turns. What only the snippet has (its
image tower, the last layer of its video tower, with quantisation its whole towers) stays beside them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vllava_cli.engine.forward import memory_faults
from vllava_cli.engine.generate import Engine
from vllava_cli.engine.hub import weight_files
from vllava_cli.engine.load import load, trimmed
from vllava_cli.engine.measuring.clock import seconds_of
from vllava_cli.engine.measuring.random_weights import fill, random_config, skeleton
from vllava_cli.engine.measuring.snippet import Snippet
from vllava_cli.engine.measuring.snippet_load import loaded_snippet, random_snippet
from vllava_cli.engine.measuring.turns import Turns, free
from vllava_cli.engine.tokens import Tokens
from vllava_cli.measures import Measured
from vllava_cli.nouns import LoadPlan

BLOCK_BYTES = 8 << 20
KEPT_WHOLE = ("model.video_tower", "model.image_tower", "model.multi_modal_projector", "lm_head")
"""What this tool doesn't quantise."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Both, ready to answer."""

    engine: Engine
    snippet: Snippet

    @property
    def snippet_bytes(self) -> int:
        """What the snippet's model holds beside ours."""
        return self.snippet.own_bytes(self.engine.model)


@dataclass(frozen=True, kw_only=True)
class Loads:
    """How many seconds loading took."""

    ours: Measured
    snippet: Measured
    limit: float
    """The files of weights read from the first byte to the last, as they lie in the system's cache by then."""


def load_pair(tokens: Tokens, plan: LoadPlan, turns: Turns) -> tuple[Pair, Loads]:
    """Loads both in turns, from files; the last two stay. Errors: CheckpointError, MemoryShortError."""
    folder = tokens.checkpoint.folder
    reading_s(folder)
    limit = reading_s(folder)
    loading = _Loading(tokens=tokens, plan=plan)
    snippet_s, ours_s = turns.of_each((loading.snippet_s, loading.ours_s))
    pair = loading.pair()
    return pair, Loads(ours=Measured(values=tuple(ours_s)), snippet=Measured(values=tuple(snippet_s)), limit=limit)


def random_pair(name: str, tokens: Tokens, plan: LoadPlan) -> Pair:
    """Around weights that are made. Errors: MemoryShortError."""
    with memory_faults(plan.device):
        model = skeleton(trimmed(random_config(name)), plan)
        model.model.image_tower = None
        fill(model, plan, is_kept_whole=lambda module: module.startswith(KEPT_WHOLE))
        engine = Engine(model=model, tokens=tokens, plan=plan)
        return Pair(engine=engine, snippet=random_snippet(random_config(name), plan, model))


def reading_s(folder: Path) -> float:
    """How long it takes to read all files of weights in a folder."""
    return seconds_of(lambda: _read(folder), "cpu")


@dataclass(kw_only=True)
class _Loading:
    tokens: Tokens
    plan: LoadPlan
    engine: Engine | None = None
    snippet: Snippet | None = None

    def snippet_s(self) -> float:
        self.engine = self.snippet = None
        return self._timed(self._load_snippet)

    def ours_s(self) -> float:
        if self.snippet:
            self.snippet.strip()
        return self._timed(self._load_ours)

    def pair(self) -> Pair:
        if self.engine is None or self.snippet is None:
            raise RuntimeError("a pair before both were loaded")
        self.snippet.share(self.engine.model)
        return Pair(engine=self.engine, snippet=self.snippet)

    def _timed(self, work: Callable[[], None]) -> float:
        free(self.plan.device)
        return seconds_of(work, self.plan.device)

    def _load_snippet(self) -> None:
        self.snippet = loaded_snippet(self.tokens.checkpoint, self.plan)

    def _load_ours(self) -> None:
        self.engine = load(self.plan, self.tokens, {"video"})


def _read(folder: Path) -> None:
    block = bytearray(BLOCK_BYTES)
    for name in weight_files(folder):
        with (folder / name).open("rb", buffering=0) as file:
            while file.readinto(block):
                pass
