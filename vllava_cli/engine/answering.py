"""One answer: chooses token after token until something ends it, and keeps what was said as a turn."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from vllava_cli.engine.choose import Chooser
from vllava_cli.engine.forward import step
from vllava_cli.engine.memory import Shown
from vllava_cli.engine.repetition import is_looping
from vllava_cli.engine.tokens import GrowingText
from vllava_cli.nouns import Conversation, Piece, Sampling, Stats, StopReason, Turn

if TYPE_CHECKING:
    from vllava_cli.engine.stream import Engine


@dataclass(kw_only=True)
class Answering:
    """One answer on its way: `pieces` yields it, `keep` makes a turn of it. Errors: those of `Engine.stream`."""

    engine: Engine
    conversation: Conversation
    question: str
    sampling: Sampling
    is_interrupted: Callable[[], bool]
    reused: int = 0
    stop: StopReason = "interrupted"
    started_s: float = field(default_factory=time.perf_counter)
    first_s: float | None = None
    is_kept: bool = False

    def __post_init__(self) -> None:
        self.ids = self.engine.tokens.prompt_ids(self.conversation, self.question)
        self.text = GrowingText(tokens=self.engine.tokens, holds_stray=self.sampling.has_guard)
        self.calls_before = self.engine.sight.calls

    def pieces(self) -> Iterator[Piece]:
        logits = self._prefill()
        chooser = Chooser(self.sampling, self.engine.tokens.banned_ids, self.engine.model.device)
        while logits is not None:
            token = chooser.choose(logits)
            self.first_s = self.first_s or time.perf_counter()
            if token in self.engine.tokens.stop_ids:
                self.stop = "end"
                break
            if new := self.text.push(token):
                yield Piece(text=new)
            if stop := self._stop():
                self.stop = stop
                break
            logits = self._step()
        rest = self.text.rest()
        if self.sampling.has_guard and self.text.has_stray:
            self.stop = "repetition"
        yield Piece(text=rest, stop_reason=self.stop, stats=self.keep())

    def keep(self) -> Stats:
        """Adds the turn to the conversation, once."""
        stats = self._stats()
        if self.is_kept:
            return stats
        self.is_kept = True
        turn = Turn(
            question=self.question,
            answer=self.text.text,
            answer_ids=tuple(self.text.ids),
            media=self.conversation.attached,
            stop_reason=self.stop,
            sampling=self.sampling,
            stats=stats,
        )
        self.conversation.turns.append(turn)
        self.conversation.attached = ()
        return stats

    def _stop(self) -> StopReason | None:
        new = len(self.text.ids)
        if self.sampling.has_guard and (self.text.has_stray or is_looping(self.text.ids)):
            return "repetition"
        if new >= self.sampling.max_new_tokens:
            return "length"
        if len(self.ids) + new >= self.engine.tokens.context_tokens:
            return "context"
        return "interrupted" if self.is_interrupted() else None

    def _prefill(self) -> torch.Tensor | None:
        conversation = self.conversation
        shown = Shown(ids=tuple(self.ids), media=conversation.media, fit=conversation.fit)
        self.reused, logits = self.engine.read(shown, is_interrupted=self.is_interrupted)
        return logits

    def _step(self) -> torch.Tensor:
        memory = self.engine.memory
        if memory is None:
            raise RuntimeError("a step of decoding without a prefill")
        token = self.text.ids[-1]
        with self.engine.passes():
            logits = step(self.engine.model, token, memory.cache)
        memory.ids.append(token)
        return logits

    def _stats(self) -> Stats:
        now = time.perf_counter()
        first = self.first_s or now
        return Stats(
            prompt_tokens=len(self.ids),
            reused_tokens=self.reused,
            new_tokens=len(self.text.ids),
            tower_calls=self.engine.sight.calls - self.calls_before,
            first_token_s=first - self.started_s,
            decode_s=now - first,
            peak_bytes=_peak_bytes(self.engine.model.device),
        )


def _peak_bytes(device: torch.device) -> int | None:
    """The most memory that was in use: the GPU's own count, or the process's resident set."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)
