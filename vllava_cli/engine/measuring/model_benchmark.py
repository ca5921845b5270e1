"""Measures a model with this tool and with the documentation's snippet, and compares with the limit of the device.

Both tools run in one process, by turns, with the same weights and the same question.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from vllava_cli.answers import Turn
from vllava_cli.engine.device_speed import measured, peak_bytes, seconds_of
from vllava_cli.engine.forward import free, memory_faults
from vllava_cli.engine.generate import Engine
from vllava_cli.engine.hub import weight_files
from vllava_cli.engine.load import load, load_documented
from vllava_cli.engine.measuring.figures import Agreement, BenchTask, Figure, Measured, Roofline, Unit
from vllava_cli.engine.measuring.measured_tools import (
    BenchQuestion,
    MeasuredEngine,
    MeasuredSnippet,
    random_models,
    share,
)
from vllava_cli.engine.tokens import Tokens
from vllava_cli.errors import ContextError, MediaError, MemoryShortError
from vllava_cli.machine import Speed
from vllava_cli.media.decoder.client import DecoderClient
from vllava_cli.nouns import DecodeLimits, Frames, Framing, LoadPlan

CLIPS = 8
"""The size of the batch of clips that is measured as a whole."""
LEAST_TOKENS = 2
"""The prefill gives the first token; the second one is the first that a step of decoding gives."""
MIB, SHORTEST_S = 1 << 20, 1e-6
TOLERANCE = 1e-3
"""How much any logit may differ from transformers' in fp32."""
LOOP_S = 60.0
"""The time of the documentation's loop: it decodes a film from its beginning to its end."""
SLOW_S, SPENT_S = 10.0, 50.0
"""A round that takes longer than SLOW_S is repeated less often, so that all rounds take about SPENT_S."""
Tool = MeasuredEngine | MeasuredSnippet
Work = Callable[[Tool], float]


@dataclass(kw_only=True)
class ModelBenchmark:
    """Measures one configuration of a model, or of the random weights that `random` names, on a device of this speed.

    `expect` is called with an estimate of the seconds that all measurements take. If `is_interrupted()` is true,
    KeyboardInterrupt is raised between two measurements.
    """

    tokens: Tokens
    random: str | None
    plan: LoadPlan
    measure: Callable[[LoadPlan], Speed] = measured
    """Measures the device, before anything else."""
    frames: Frames
    limits: DecodeLimits
    """The limits of the processes that read the clip."""
    reading: Figure | None
    """The time of reading the clip, if an earlier configuration has measured it already."""
    task: BenchTask
    is_interrupted: Callable[[], bool]
    expect: Callable[[float], object]
    asked: BenchQuestion = field(init=False)
    snippet: MeasuredSnippet = field(init=False)
    ours: MeasuredEngine = field(init=False)
    speed: Speed = field(init=False)

    def __post_init__(self) -> None:
        self.speed = self.measure(self.plan)

    def figures(self) -> Iterator[Figure]:
        """Yields each line of the table as soon as it is measured.

        A tool that runs out of memory has no value in that line, and a note says so. Errors: UsageError, ContextError,
        CheckpointError, MediaError, MemoryShortError (if both tools run out, or while loading).
        """
        asked = self.asked = self._asked()
        free(self.plan.device)  # cycles would keep the models of an earlier configuration
        yield self._make(self.random) if self.random else self._load()
        yield self.reading or self._frames(self.frames.clip.path)
        prompt, model = len(asked.ids), self.ours.engine.model
        vision = (*model.model.video_tower.parameters(), *model.model.multi_modal_projector.parameters())
        roof = Roofline(
            checkpoint=self.tokens.checkpoint,
            vision_parameters=sum(parameter.numel() for parameter in vision),
            head_parameters=model.lm_head.in_features * model.lm_head.out_features,
            plan=self.plan,
            speed=self.speed,
            prompt_tokens=prompt,
            new_tokens=asked.new_tokens,
        )
        if self.task.is_short:
            yield from self._one_answer(roof)
            return
        peak = self._peak(roof)  # first, while nothing but the weights is in memory
        yield self._figure("vision", "ms", lambda tool: tool.vision_s(asked), roof.vision_s)
        yield self._figure("prefill", "tokens/s", lambda tool: tool.prefill_s(asked), roof.pass_s(prompt), prompt)
        yield self._figure("first token", "ms", lambda tool: tool.first_token_s(asked), roof.first_token_s)
        for rows in self.task.batches:
            work, decoded = partial(_decode_s, asked, rows), rows * (asked.new_tokens - 1)
            yield self._figure(f"decode, batch {rows}", "tokens/s", work, roof.decode_s(rows), decoded)
        yield peak
        yield self._figure("batch", "clips/s", lambda tool: tool.clips_s(asked, CLIPS), roof.clips_s(CLIPS), CLIPS)

    def check(self) -> Agreement:
        """Compares our greedy tokens and logits with transformers', after `figures` ended. Errors: MemoryShortError.

        transformers computes with the snippet's untrimmed towers, or with our towers if the snippet's are quantised.
        """
        asked, plan, model = self.asked, self.plan, self.ours.engine.model
        plain = MeasuredSnippet(model=model, plan=plan) if plan.quantisation else self.snippet
        with memory_faults(plan.device):
            wanted, _ = plain.answer(asked, suppressed=asked.tokens.banned_ids)
            self.ours.forget()
            found, _ = self.ours.answer(asked)
            self._stop_if_interrupted()
            logits = plain.logits(asked, wanted), self.ours.logits(asked, wanted)
            difference = float((logits[0].float() - logits[1].float()).abs().max())
        return Agreement(
            tokens=len(wanted),
            equal_tokens=[*(a == b for a, b in zip(wanted, found, strict=False)), False].index(False),
            largest_difference=difference if math.isfinite(difference) else None,
            tolerance=TOLERANCE,
            must_be_equal=plan.dtype == "float32" and plan.quantisation is None,
        )

    def _asked(self) -> BenchQuestion:
        """Makes the question, without stop ids and with as many new tokens as fit. Errors: UsageError, ContextError."""
        context = self.plan.context_tokens or self.tokens.context_tokens
        tokens = replace(self.tokens, stop_ids=frozenset(), context_tokens=context)
        asked = BenchQuestion(tokens=tokens, frames=self.frames, question=self.task.question, new_tokens=LEAST_TOKENS)
        left = context - len(asked.ids)
        if left < LEAST_TOKENS:
            counts = f"The prompt has {context - left} tokens, and the context holds {context}"
            raise ContextError(f"{counts}: shorten the question, so that there is room for an answer.")
        return replace(asked, new_tokens=min(left, max(LEAST_TOKENS, self.task.new_tokens)))

    def _load(self) -> Figure:
        """Measures loading both models, by turns; the models that were loaded last are kept.

        The limit is the time in which the device copies as many bytes as the files of the weights have.
        """
        plan, tokens, device, found = self.plan, self.asked.tokens, self.plan.device, dict[str, Any]()
        folder = tokens.checkpoint.folder

        def load_snippet() -> float:
            found.clear()
            free(device)
            return seconds_of(lambda: found.update(snippet=load_documented(plan, tokens.checkpoint)), device)

        def load_ours() -> float:
            snippet = found["snippet"]
            if not plan.is_held:  # it gets those of ours, so that no weight is held twice
                for parameter in (*snippet.model.language_model.parameters(), *snippet.lm_head.parameters()):
                    parameter.data = parameter.new_empty(0)
            free(device)
            return seconds_of(lambda: found.update(engine=load(plan, tokens, {"video"})), device)

        snippet, ours = self.alternate(load_snippet, load_ours, is_strict=True)
        self._take(found["snippet"], found["engine"])
        limit = sum((folder / name).stat().st_size for name in weight_files(folder)) / self.speed.bytes
        return Figure(name="load", unit="s", ours=ours, snippet=snippet, limit=limit)

    def _frames(self, path: Path) -> Figure:
        """Measures reading the clip in one decoder, and the documentation's loop in another. Errors: MediaError."""
        loop_limits, note = replace(self.limits, timeout_s=min(LOOP_S, self.limits.timeout_s)), ""
        with DecoderClient(self.limits) as decoder, DecoderClient(loop_limits) as other:
            measures = [partial(seconds_of, partial(decoder.sample, path, Framing()), "cpu")]
            try:
                other.documented(path)
                measures.append(partial(seconds_of, partial(other.documented, path), "cpu"))
            except MediaError as exc:
                note = f"The documentation's loop has no figure: {str(exc).partition('. ')[0]}."
            ours, *loop = self.alternate(*measures)
        return Figure(name="frames", unit="s", ours=ours, snippet=loop[0] if loop else None, note=note)

    def _make(self, name: str) -> Figure:
        with memory_faults(self.plan.device):
            ours, snippet = random_models(name, self.plan)
        self._take(snippet, Engine(model=ours, tokens=self.asked.tokens, plan=self.plan))
        return Figure(name="load", unit="s", note="Random weights are made, not loaded.")

    def _take(self, snippet: Any, engine: Engine) -> None:
        """Makes the two tools; the snippet takes over our language model if transformers can run it as its own."""
        if not self.plan.is_held:
            share(engine.model, snippet)
        self.snippet = MeasuredSnippet(model=snippet, plan=self.plan)
        self.ours = MeasuredEngine(engine=engine, is_interrupted=self.is_interrupted)

    def _one_answer(self, roof: Roofline) -> Iterator[Figure]:
        """Measures the parts of one answer of this tool, for a machine on which all measurements would take hours."""
        asked, ours = self.asked, self.ours
        self.expect(roof.first_token_s + roof.decode_s(1))
        ours.forget()
        vision_s = ours.vision_s(asked)
        found: list[Turn] = []
        peak = peak_bytes(lambda: found.append(ours.turn(asked)), self.plan.device)
        self._stop_if_interrupted()
        stats, rest = found[0].stats, asked.new_tokens - 1
        prompt, first_s = stats.prompt_tokens, vision_s + stats.first_token_s
        yield _single("vision", "ms", 1000 * vision_s, 1000 * roof.vision_s)
        yield _single("prefill", "tokens/s", prompt / stats.first_token_s, prompt / roof.pass_s(prompt))
        yield _single("first token", "ms", 1000 * first_s, 1000 * roof.first_token_s)
        yield _single("decode, batch 1", "tokens/s", rest / stats.decode_s, rest / roof.decode_s(1))
        if peak:
            yield _single("peak memory", "MiB", peak / MIB)

    def _peak(self, roof: Roofline) -> Figure:
        """Measures the memory of each tool's first answer, and estimates how long all measurements will take.

        The process holds both models, so the parameters that only the snippet has are subtracted from our value. On the
        CPU the value is that of the whole process, with Python, the libraries and the decoded frames.
        """
        device, spare_bytes = self.plan.device, self.snippet.own_bytes(self.ours.engine.model)

        def peak_mib(tool: Tool) -> float:
            self.ours.forget()
            found = peak_bytes(lambda: tool.answer(self.asked), device) or 0
            return (found - (spare_bytes if tool is self.ours else 0)) / MIB

        started_s = time.perf_counter()
        peak = self._figure("peak memory", "MiB", peak_mib, repeat=0)
        self.expect(expected_s(roof, self.task, (time.perf_counter() - started_s) / 2 / roof.clips_s(1)))
        if peak.snippet and not peak.snippet.median:
            return Figure(name=peak.name, unit=peak.unit, note="This system doesn't say how much memory was in use.")
        return peak

    def _figure(
        self, name: str, unit: Unit, work: Work, limit: float = 0, amount: float = 0, repeat: int | None = None
    ) -> Figure:
        """Measures what `work` returns: MiB, or seconds, shown in ms or as a rate (`amount` divided by the seconds)."""

        def shown(value: float) -> float:
            scaled = value if unit == "MiB" else 1000 * value
            return amount / max(value, SHORTEST_S) if amount else scaled

        works = (lambda: shown(work(self.snippet)), lambda: shown(work(self.ours)))
        snippet, ours = self.alternate(*works, repeat=repeat)
        missing = {"This tool ran out of memory.": ours, "The snippet ran out of memory.": snippet}
        note = next((sentence for sentence, found in missing.items() if found is None), "")
        most = shown(limit) if limit else None
        return Figure(name=name, unit=unit, ours=ours, snippet=snippet, limit=most, note=note)

    def alternate(
        self, *measures: Callable[[], float], repeat: int | None = None, is_strict: bool = False
    ) -> list[Measured | None]:
        """Runs the measurements by turns, A B A B …, so that a change of the machine's speed affects all of them.

        The first round warms up; it counts only if no other round follows. A measurement that runs out of memory gives
        None; if it `is_strict`, or all of them run out in a round, the MemoryShortError is raised. Raises
        KeyboardInterrupt before or after a measurement.
        """

        def run_round() -> list[float | None]:
            found: list[float | None] = []
            for measure in measures:
                self._stop_if_interrupted()
                try:
                    with memory_faults(self.plan.device):
                        found.append(measure())
                        continue
                except MemoryShortError:
                    if is_strict or found == [None] * (len(measures) - 1):
                        raise
                found.append(None)
                free(self.plan.device)  # the error, which kept the tensors of its frames, is gone by now
            self._stop_if_interrupted()
            return found

        started_s = time.perf_counter()
        rounds = [run_round()]
        round_s = time.perf_counter() - started_s
        rounds += [run_round() for _ in range(repeats_of(round_s, self.task.repeat if repeat is None else repeat))]
        values = [[value for value in column if value is not None] for column in zip(*rounds, strict=True)]
        return [Measured(values=tuple(each[1:] or each)) if len(each) == len(rounds) else None for each in values]

    def _stop_if_interrupted(self) -> None:
        if self.is_interrupted():
            raise KeyboardInterrupt


def _single(name: str, unit: Unit, value: float, limit: float | None = None) -> Figure:
    return Figure(name=name, unit=unit, ours=Measured(values=(value,)), limit=limit)


def _decode_s(asked: BenchQuestion, sequences: int, tool: Tool) -> float:
    return tool.answer(asked, sequences)[1]


def expected_s(roof: Roofline, task: BenchTask, slowness: float) -> float:
    """Estimates the seconds of all further measurements; the first answers took `slowness` times their limit."""
    one_s = roof.first_token_s
    rounds = [2 * roof.vision_s, 2 * roof.pass_s(roof.prompt_tokens), 2 * one_s, roof.clips_s(CLIPS) + roof.clips_s(1)]
    rounds += [(1 + each) * one_s + 2 * roof.decode_s(each) for each in task.batches]
    return sum(slowness * each * (1 + repeats_of(slowness * each, task.repeat)) for each in rounds)


def repeats_of(round_s: float, repeat: int) -> int:
    """Counts the rounds that follow a first round of this many seconds: (0.1, 5) → 5; (20, 5) → 2; (60, 5) → 0."""
    return repeat if round_s <= SLOW_S else min(repeat, int(SPENT_S / round_s))
