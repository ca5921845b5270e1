"""The lines of a contest, each measured when it is asked for: this tool beside the snippet beside the limit."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from vllava_cli.engine.measuring.asked import Asked
from vllava_cli.engine.measuring.clock import seconds_of
from vllava_cli.engine.measuring.duration import CLIPS, expected_s, least_s
from vllava_cli.engine.measuring.limits import Limits
from vllava_cli.engine.measuring.ours import Ours
from vllava_cli.engine.measuring.pair import Pair
from vllava_cli.engine.measuring.peak import peak_bytes
from vllava_cli.engine.measuring.turns import Both, Turns
from vllava_cli.errors import ContextError
from vllava_cli.measures import Expect, Line, Unit

MIB = 1 << 20
QUICK_S = 5.0
"""A first answer that takes less is repeated before the rest is guessed by it: what is done once only weighs much."""


@dataclass(frozen=True, kw_only=True)
class Contest:
    """Both contestants, and what they are asked.

    `tell` gets a short phrase of what is being measured, `expect` how many seconds all will take.
    """

    pair: Pair
    ours: Ours
    asked: Asked
    turns: Turns
    limits: Limits
    tell: Callable[[str], object]
    expect: Expect

    def lines(self, batches: tuple[int, ...]) -> Iterator[Line]:
        """All but that of loading; each number of rows in `batches` has one."""
        tokens, repeat = (len(self.asked.ids), self.asked.new_tokens), self.turns.repeat
        best_s = least_s(self.limits, tokens=tokens)
        best = expected_s(self.limits, (best_s, best_s), tokens=tokens, batches=batches, repeat=repeat)
        self.expect("at least", 2 * best_s + best)
        # First, while nothing but the weights is in memory.
        peak, answers_s = self._peak()
        self.expect("about", expected_s(self.limits, answers_s, tokens=tokens, batches=batches, repeat=repeat))
        yield self._vision()
        yield self._prefill()
        yield self._first_token()
        yield self._second_turn()
        for rows in batches:
            yield self._decode(rows)
        yield peak
        yield self._clips()

    def _peak(self) -> tuple[Line, tuple[float, float]]:
        """The line of memory, and about how many seconds an answer of ours and one of the snippet's takes."""
        started_s = time.perf_counter()
        peak = self._peak_line()
        half_s = (time.perf_counter() - started_s) / 2
        is_quick = half_s < QUICK_S and peak.ours is not None and peak.snippet is not None
        return peak, self._answers_s() if is_quick else (half_s, half_s)

    def _answers_s(self) -> tuple[float, float]:
        """Of ours and the snippet's, which is no first one any more."""
        self.ours.forget()
        device = self.turns.device
        return seconds_of(lambda: self.ours.answer(self.asked), device), seconds_of(self._snippets_answer, device)

    def _peak_line(self) -> Line:
        """Of a first answer each, the snippet's before ours, because our engine keeps its cache from then on.

        The process holds both models, so ours is what is left without the parts that only the snippet has. On the CPU
        it is the whole process, with Python, the libraries and what was decoded.
        """
        self.tell("peak memory")
        asked, spare_bytes = self.asked, self.pair.snippet_bytes
        once = replace(self.turns, repeat=0)
        both = once.of_both(
            ours=lambda: (self._peak_of(lambda: self.ours.answer(asked)) - spare_bytes) / MIB,
            snippet=lambda: self._peak_of(self._snippets_answer) / MIB,
        )
        if both.snippet and not both.snippet.median:
            return Line(name="peak memory", unit="MiB", note="This system doesn't say how much memory was in use.")
        return _line("peak memory", "MiB", both, None)

    def _peak_of(self, work: Callable[[], object]) -> int:
        """0 where it can't be known."""
        self.ours.forget()
        return peak_bytes(work, self.turns.device) or 0

    def _snippets_answer(self) -> object:
        return self.pair.snippet.generate(self.asked, new_tokens=self.asked.new_tokens)

    def _vision(self) -> Line:
        self.tell("vision")
        asked, snippet = self.asked, self.pair.snippet
        both = self.turns.of_both(
            ours=lambda: 1000 * self.ours.vision_s(asked), snippet=lambda: 1000 * snippet.vision_s(asked)
        )
        return _line("vision", "ms", both, 1000 * self.limits.vision_s)

    def _prefill(self) -> Line:
        self.tell("prefill")
        asked, snippet, tokens = self.asked, self.pair.snippet, len(self.asked.ids)
        features = snippet.features(asked)
        both = self.turns.of_both(
            ours=lambda: tokens / self.ours.prefill_s(asked),
            snippet=lambda: tokens / snippet.prefill_s(asked, features),
        )
        return _line("prefill", "tokens/s", both, tokens / self.limits.prefill_s(tokens))

    def _first_token(self) -> Line:
        self.tell("first token")
        asked, snippet = self.asked, self.pair.snippet
        both = self.turns.of_both(
            ours=lambda: 1000 * self.ours.first_token_s(asked),
            snippet=lambda: 1000 * snippet.answer_s(asked, new_tokens=1),
        )
        return _line("first token", "ms", both, 1000 * self.limits.first_token_s(len(asked.ids)))

    def _second_turn(self) -> Line:
        """The snippet has no conversation: it is asked with the whole prompt, clip and first turn included."""
        name = "first token, turn 2"
        self.tell(name)
        asked, snippet = self.asked, self.pair.snippet
        try:
            again = asked.following((self.ours.turn(asked),))
        except ContextError:
            return Line(name=name, unit="ms", note="The context has no room for a second turn.")
        both = self.turns.of_both(
            ours=lambda: 1000 * self.ours.second_turn_s(asked),
            snippet=lambda: 1000 * snippet.answer_s(again, new_tokens=1),
        )
        new_tokens = len(again.ids) - len(asked.ids)
        return _line(name, "ms", both, 1000 * self.limits.prefill_s(new_tokens))

    def _decode(self, rows: int) -> Line:
        name = f"decode, batch {rows}"
        self.tell(name)
        asked, snippet = self.asked, self.pair.snippet
        both = self.turns.of_both(
            ours=lambda: self.ours.decode_tokens_per_s(asked, rows=rows),
            snippet=lambda: snippet.decode_tokens_per_s(asked, rows=rows),
        )
        limit = self.limits.decode_tokens_per_s(rows, prompt_tokens=len(asked.ids), new_tokens=asked.new_tokens)
        return _line(name, "tokens/s", both, limit)

    def _clips(self) -> Line:
        """The snippet's is that of one clip: it takes them one after the other."""
        self.tell("batch")
        asked, snippet = self.asked, self.pair.snippet
        both = self.turns.of_both(
            ours=lambda: self.ours.clips_per_s(asked, clips=CLIPS),
            snippet=lambda: 1 / snippet.answer_s(asked, new_tokens=asked.new_tokens),
        )
        limit = self.limits.clips_per_s(CLIPS, prompt_tokens=len(asked.ids), new_tokens=asked.new_tokens)
        return _line("batch", "clips/s", both, limit)


def _line(name: str, unit: Unit, both: Both, limit: float | None) -> Line:
    return Line(name=name, unit=unit, ours=both.ours, snippet=both.snippet, limit=limit, note=both.note)
