"""The engines of rows, one at a time: each is loaded as the rows say, or it is said what is another here."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

from vllava_cli.commands.provenance import Loaded
from vllava_cli.commands.start import start
from vllava_cli.errors import ReplayError, VllavaError
from vllava_cli.imports import gc_paused
from vllava_cli.nouns import MediaKind, Wishes
from vllava_cli.screen import Screen
from vllava_cli.stopwatch import Stopwatch

if TYPE_CHECKING:
    from vllava_cli.engine.generate import Engine
    from vllava_cli.engine.tokens import Tokens


@dataclass(kw_only=True)
class Engines:
    """Holds the engine of the rows that are replayed now."""

    screen: Screen
    _wanted: Loaded | None = None
    _engine: Engine | None = None
    _fault: str = ""

    def engine(self, wanted: Loaded, kinds: Collection[MediaKind]) -> Engine:
        """Loaded once for rows that want the same; the one before is given up first. Errors: ReplayError."""
        wanted = replace(wanted, versions=())
        if wanted != self._wanted:
            self._give_up()
            self._wanted = wanted
            try:
                self._engine = self._loaded(wanted, kinds)
            except VllavaError as exc:
                self._fault = str(exc)
        if self._engine is None:
            raise ReplayError(self._fault)
        return self._engine

    def _give_up(self) -> None:
        if self._engine is None:
            return
        from vllava_cli.engine.measuring.turns import free

        device, self._engine = self._engine.plan.device, None
        free(device)

    @gc_paused()
    def _loaded(self, wanted: Loaded, kinds: Collection[MediaKind]) -> Engine:
        """Errors: ReplayError before a weight is read, any VllavaError."""
        from vllava_cli.engine.adapter import locate

        wishes = Wishes(
            model=wanted.model,
            revision=wanted.revision,
            adapter=wanted.adapter.name if wanted.adapter else None,
            device=wanted.device,
            precision=wanted.precision,
            attention=wanted.attention,
        )
        source = locate(wishes, self.screen.log)
        with self.screen.waiting("Reading the model's files"):
            from vllava_cli.engine.checkpoint import describe
            from vllava_cli.engine.device_speed import planned
            from vllava_cli.engine.tokens import read_tokens
            from vllava_cli.hardware import probe

            tokens = read_tokens(describe(source))
            plan = planned(wishes, probe(), tokens.checkpoint.seeing(kinds))
        here = replace(Loaded.of(plan, tokens.checkpoint), versions=())
        if other := next(_others(wanted, here), None):
            raise ReplayError(other)
        self.screen.notice(f"vllava: replaying on {wanted.device}, as the rows say: {_told_whole(wanted)}.")
        return start(wishes, tokens, kinds, self.screen.log, Stopwatch(), check=_accept)[0]


def _others(wanted: Loaded, here: Loaded) -> Iterator[str]:
    """What would be another: "the dtype was bfloat16, and is float16 here"."""
    for field in fields(Loaded):
        then, now = getattr(wanted, field.name), getattr(here, field.name)
        if then != now:
            yield f"the {field.name} was {_told(then)}, and is {_told(now)} here"


def _told_whole(wanted: Loaded) -> str:
    """ "demo, fp32, sdpa" """
    adapter = [f"with {wanted.adapter.name}"] if wanted.adapter else []
    return ", ".join([wanted.model, *adapter, wanted.precision, wanted.attention])


def _told(value: object) -> str:
    return "none" if value is None else " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _accept(_: Tokens) -> None:
    """What doesn't fit into a shorter context is told when its row is replayed."""
