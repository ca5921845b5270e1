"""One answer, kept as a turn: token after token until something ends it, or the likeliest of the choices."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from vllava_cli.engine.cancel import CancelError
from vllava_cli.engine.decoding import decoded
from vllava_cli.engine.forward import memory_faults
from vllava_cli.engine.prompt_cache import Shown
from vllava_cli.engine.sampler import Chooser, overflowed
from vllava_cli.engine.scoring import log_likelihoods, probabilities
from vllava_cli.engine.stopping import stop_of
from vllava_cli.engine.tokens import digest_of
from vllava_cli.errors import UsageError
from vllava_cli.nouns import Conversation, Piece, Sampling, Stats, StopReason, Turn

if TYPE_CHECKING:
    from vllava_cli.engine.generate import Engine


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
    options: tuple[tuple[int, ...], ...] = ()
    probabilities: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        self.ids = self.engine.tokens.prompt_ids(self.conversation, self.question)
        if self.sampling.choices:
            self.options = self.engine.tokens.option_ids(self.sampling.choices, prompt_tokens=len(self.ids))
            self._check_calibration()
        self.text = self.engine.tokens.detokenizer(self.sampling)
        self.calls_before = self.engine.sight.calls

    def pieces(self) -> Iterator[Piece]:
        logits = self._prefill()
        if self.options:
            yield self._chosen(logits)
            return
        if logits is not None:
            with closing(self._decoded(logits)) as tokens:
                yield from self._said(tokens)
        rest = self.text.rest()
        yield Piece(text=rest, stop_reason=self.stop, stats=self.keep())

    def _said(self, tokens: Iterator[int]) -> Iterator[Piece]:
        """The text of tokens until one ends it."""
        while (token := self._next(tokens)) is not None:
            self.first_s = self.first_s or time.perf_counter()
            if token in self.engine.tokens.stop_ids:
                self.stop = "end"
                return
            if new := self.text.push(token):
                yield Piece(text=new)
            if stop := self._stop():
                self.stop = stop
                return

    def _next(self, tokens: Iterator[int]) -> int | None:
        """The next token; None where the step that makes it was interrupted."""
        with self.engine.llama.cancel.asking(self.is_interrupted):
            return next(tokens, None)

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
            probabilities=self.probabilities,
            prompt_sha256=digest_of(self.ids),
        )
        self.conversation.turns.append(turn)
        self.conversation.attached = ()
        return stats

    def _chosen(self, logits: torch.Tensor | None) -> Piece:
        """The only piece of an answer that is chosen; without text where it was interrupted."""
        self.probabilities = self._scored(logits)
        if not all(map(math.isfinite, self.probabilities)):
            raise overflowed()
        if self.probabilities:
            best = self.probabilities.index(max(self.probabilities))
            self.text.text, self.text.ids = self.sampling.choices[best], list(self.options[best])
            self.text.produced = len(self.text.ids)
            self.stop = "choice"
        stats = self.keep()
        return Piece(text=self.text.text, stop_reason=self.stop, stats=stats, probabilities=self.probabilities)

    def _scored(self, logits: torch.Tensor | None) -> tuple[float, ...]:
        """The probability of each choice; () where it was interrupted. The cache keeps the prompt and nothing else."""
        engine, memory = self.engine, self.engine.memory
        if logits is None or memory is None:
            return ()
        with memory_faults(engine.plan.device, engine.plan):
            is_held = torch.ones(1, len(memory.ids), dtype=torch.bool, device=logits.device)
            try:
                with engine.llama.cancel.asking(self.is_interrupted):
                    scores = log_likelihoods(engine.llama, memory.cache, is_held, logits[None], self.options)[0]
            except CancelError:
                return ()
            if not self.sampling.is_calibrated:
                return tuple(probabilities(scores).tolist())
            blank = engine.blank.scores(self.ids, self.options, is_interrupted=self.is_interrupted)
        return () if blank is None else tuple(probabilities(scores, blank).tolist())

    def _check_calibration(self) -> None:
        if self.sampling.is_calibrated and not self.conversation.media:
            raise UsageError(
                "Calibrating replaces clips by blank ones, and there is no clip: show one, or don't calibrate."
            )

    def _stop(self) -> StopReason | None:
        room = self.engine.tokens.context_tokens - len(self.ids)
        text = self.text
        stop = stop_of(
            text.likely_ids, self.sampling, produced=text.produced, room_tokens=room, is_straying=text.is_straying
        )
        return stop or ("interrupted" if self.is_interrupted() else None)

    def _prefill(self) -> torch.Tensor | None:
        conversation = self.conversation
        shown = Shown(ids=tuple(self.ids), media=conversation.media, fit=conversation.fit)
        self.reused, logits = self.engine.read(shown, is_interrupted=self.is_interrupted)
        return logits

    def _decoded(self, logits: torch.Tensor) -> Generator[int, None, None]:
        memory = self.engine.memory
        if memory is None:
            raise RuntimeError("a step of decoding without a prefill")
        chooser = Chooser(self.sampling, self.engine.tokens.banned_ids, self.engine.model.device)
        return decoded(self.engine, memory, chooser, logits)

    def _stats(self) -> Stats:
        now = time.perf_counter()
        first = self.first_s or now
        return Stats(
            prompt_tokens=len(self.ids),
            reused_tokens=self.reused,
            new_tokens=self.text.produced,
            stray_tokens=self.text.stray_tokens,
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
