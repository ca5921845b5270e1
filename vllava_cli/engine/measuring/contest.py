"""What `vllava bench` measures of a model: this tool beside the documentation's snippet beside what the device allows.

Both compute in one process with the same weights (see `pair`), take turns, and are asked the same (see `asked`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from vllava_cli.engine.device_speed import measured
from vllava_cli.engine.measuring.agreement import agreement
from vllava_cli.engine.measuring.asked import Asked, asked
from vllava_cli.engine.measuring.limits import Limits, Sizes
from vllava_cli.engine.measuring.lines import Contest
from vllava_cli.engine.measuring.ours import Ours
from vllava_cli.engine.measuring.pair import Loads, Pair, load_pair, random_pair
from vllava_cli.engine.measuring.random_shapes import SHAPES
from vllava_cli.engine.measuring.random_weights import random_tokens
from vllava_cli.engine.measuring.turns import Turns, free
from vllava_cli.engine.tokens import Tokens
from vllava_cli.measures import Agreement, Expect, Line
from vllava_cli.nouns import Frames, LoadPlan, Speed

__all__ = ["SHAPES", "Subject", "Task", "check", "contest", "random_subject"]

MEASURED_TIMES = 3
MEASURE_S = 0.1


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
    expect: Expect = lambda how, seconds: None,  # noqa: ARG005
) -> Iterator[Line]:
    """Yields a line as soon as it is measured: load, vision, prefill, first token, decode, peak memory, batch.

    `tell` gets a short phrase of what is being measured, `expect` how many seconds it will take. Where
    `is_interrupted` says so, KeyboardInterrupt is raised between two measurements. A contestant that runs out of
    memory is missing in that line, with a note. Errors: UsageError, ContextError, CheckpointError, MemoryShortError
    (both ran out, or while loading).
    """
    question = _asked(subject, plan, task)
    turns = Turns(device=plan.device, repeat=task.repeat, is_interrupted=is_interrupted)
    tell("how fast the device is")
    speed = fastest(plan)
    tell("loading")
    pair, loads = _loaded(subject, plan, question.tokens, turns)
    yield _load_line(loads)
    checkpoint = subject.tokens.checkpoint
    sizes = Sizes.of(
        pair.engine.model.config,
        language_parameters=checkpoint.language_parameters,
        cache_values_per_token=checkpoint.cache_values_per_token,
    )
    run = Contest(
        pair=pair,
        ours=Ours(engine=pair.engine, is_interrupted=is_interrupted),
        asked=question,
        turns=turns,
        limits=Limits.of(sizes, plan, speed),
        tell=tell,
        expect=expect,
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


def fastest(plan: LoadPlan) -> Speed:
    """The most that was found in some measurements: what disturbs one makes it slower, and a limit has to be none."""
    found = [measured(plan, measure_s=MEASURE_S) for _ in range(MEASURED_TIMES)]
    return Speed(operations=max(each.operations for each in found), bytes=max(each.bytes for each in found))


def _asked(subject: Subject, plan: LoadPlan, task: Task) -> Asked:
    """The question, to a model whose answers nothing ends too early."""
    context = plan.context_tokens or subject.tokens.context_tokens
    tokens = replace(subject.tokens, stop_ids=frozenset(), context_tokens=context)
    return asked(tokens, task.frames, task.question, task.new_tokens)


def _loaded(subject: Subject, plan: LoadPlan, tokens: Tokens, turns: Turns) -> tuple[Pair, Loads | None]:
    # An earlier configuration's models refer to each other, and would stay.
    free(plan.device)
    if subject.random:
        return random_pair(subject.random, tokens, plan), None
    return load_pair(tokens, plan, turns)


def _load_line(loads: Loads | None) -> Line:
    if loads is None:
        return Line(name="load", unit="s", note="Random weights are made, not loaded.")
    return Line(name="load", unit="s", ours=loads.ours, snippet=loads.snippet, limit=loads.limit)
