"""What `vllava bench` measures of a model: this tool beside the documentation's snippet beside what the device allows.

Both compute in one process with the same weights (see `pair`), take turns, and are asked the same (see `asked`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from vllava_cli.engine.measuring.agreement import agreement
from vllava_cli.engine.measuring.asked import Asked, asked
from vllava_cli.engine.measuring.limits import Limits, Sizes
from vllava_cli.engine.measuring.ours import Ours
from vllava_cli.engine.measuring.pair import Loads, Pair, load_pair, random_pair
from vllava_cli.engine.measuring.peak import peak_bytes
from vllava_cli.engine.measuring.random_shapes import SHAPES
from vllava_cli.engine.measuring.random_weights import random_tokens
from vllava_cli.engine.measuring.turns import Both, Turns
from vllava_cli.engine.tokens import Tokens
from vllava_cli.engine.yardstick import measured
from vllava_cli.measures import Agreement, Line, Unit
from vllava_cli.nouns import Frames, LoadPlan

__all__ = ["SHAPES", "Subject", "Task", "check", "contest", "random_subject"]

CLIPS = 8
"""How many clips the batch has that is measured as a whole."""
MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is asked in every configuration."""

    frames: Frames
    """Of the clip, decoded."""
    question: str
    new_tokens: int = 64
    repeat: int = 5
    batches: tuple[int, ...] = (1, 4, 16)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Whose speed is measured."""

    tokens: Tokens
    """Of the checkpoint, or of the random model."""
    random: str | None = None
    """The name of the shapes; None for weights from files."""


def random_subject(name: str) -> Subject:
    """A model of random weights; none is made yet. Errors: UsageError that lists the names."""
    return Subject(tokens=random_tokens(name), random=name)


def contest(
    subject: Subject,
    plan: LoadPlan,
    task: Task,
    *,
    is_interrupted: Callable[[], bool],
    tell: Callable[[str], object],
) -> Iterator[Line]:
    """Yields a line as soon as it is measured: load, vision, prefill, first token, decode, peak memory, batch.

    `tell` gets a short phrase of what is being measured. Where `is_interrupted` says so, KeyboardInterrupt is raised
    between two measurements. A contestant that runs out of memory is missing in that line, with a note. Errors:
    UsageError, ContextError, CheckpointError, MemoryShortError (both ran out, or while loading).
    """
    question = _asked(subject, plan, task)
    turns = Turns(device=plan.device, repeat=task.repeat, is_interrupted=is_interrupted)
    tell("how fast the device is")
    speed = measured(plan)
    tell("loading")
    pair, loads = _loaded(subject, plan, question.tokens, turns)
    yield _load_line(loads)
    checkpoint = subject.tokens.checkpoint
    sizes = Sizes.of(
        pair.engine.model.config,
        language_parameters=checkpoint.language_parameters,
        cache_values_per_token=checkpoint.cache_values_per_token,
    )
    run = _Contest(
        pair=pair,
        ours=Ours(engine=pair.engine, is_interrupted=is_interrupted),
        asked=question,
        turns=turns,
        limits=Limits.of(sizes, plan, speed),
        tell=tell,
    )
    yield from run.lines(task.batches)


def check(
    subject: Subject,
    plan: LoadPlan,
    task: Task,
    *,
    is_interrupted: Callable[[], bool],
    tell: Callable[[str], object],
) -> Agreement:
    """Our greedy tokens and logits beside transformers'. Raises KeyboardInterrupt and errors as `contest`."""
    question = _asked(subject, plan, task)
    # generate knows no banned ids, and random weights choose them as any other.
    question = replace(question, tokens=replace(question.tokens, banned_ids=()))
    tell("loading")
    once = Turns(device=plan.device, repeat=0, is_interrupted=is_interrupted)
    pair, _ = _loaded(subject, plan, question.tokens, once)
    tell("comparing tokens and logits")
    return agreement(pair, question, is_interrupted=is_interrupted)


@dataclass(frozen=True, kw_only=True)
class _Contest:
    pair: Pair
    ours: Ours
    asked: Asked
    turns: Turns
    limits: Limits
    tell: Callable[[str], object]

    def lines(self, batches: tuple[int, ...]) -> Iterator[Line]:
        # First, while nothing but the weights is in memory.
        peak = self._peak()
        yield self._vision()
        yield self._prefill()
        yield self._first_token()
        for rows in batches:
            yield self._decode(rows)
        yield peak
        yield self._clips()

    def _peak(self) -> Line:
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


def _asked(subject: Subject, plan: LoadPlan, task: Task) -> Asked:
    """The question, to a model whose answers nothing ends too early."""
    context = plan.context_tokens or subject.tokens.context_tokens
    tokens = replace(subject.tokens, stop_ids=frozenset(), context_tokens=context)
    return asked(tokens, task.frames, task.question, task.new_tokens)


def _loaded(subject: Subject, plan: LoadPlan, tokens: Tokens, turns: Turns) -> tuple[Pair, Loads | None]:
    if subject.random:
        return random_pair(subject.random, tokens, plan), None
    return load_pair(tokens, plan, turns)


def _load_line(loads: Loads | None) -> Line:
    if loads is None:
        return Line(name="load", unit="s", note="Random weights are made, not loaded.")
    return Line(name="load", unit="s", ours=loads.ours, snippet=loads.snippet, limit=loads.limit)


def _line(name: str, unit: Unit, both: Both, limit: float | None) -> Line:
    return Line(name=name, unit=unit, ours=both.ours, snippet=both.snippet, limit=limit, note=both.note)
