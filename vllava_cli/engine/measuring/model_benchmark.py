"""Measures a model with this tool and with the documentation's snippet, beside the limit of the device.

Both tools run in one process, by turns, with the same weights and the same question.
"""

from __future__ import annotations

import ctypes
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from vllava_cli.engine.forward import memory_faults
from vllava_cli.engine.generate import Engine
from vllava_cli.engine.hub import weight_files
from vllava_cli.engine.load import NOT_QUANTISED, load, load_documented, trimmed
from vllava_cli.engine.measuring.figures import Agreement, BenchTask, Figure, Measured, Roofline, Unit
from vllava_cli.engine.measuring.measured_tools import BenchQuestion, MeasuredEngine, MeasuredSnippet, free, seconds_of
from vllava_cli.engine.measuring.random_weights import empty_model, fill, random_config
from vllava_cli.engine.tokens import Tokens
from vllava_cli.errors import ContextError, MediaError, MemoryShortError
from vllava_cli.media.decoder.client import DecoderClient
from vllava_cli.nouns import DecodeLimits, Frames, Framing, LoadPlan, Speed

CLIPS = 8
"""The size of the batch of clips that is measured as a whole."""
LEAST_TOKENS = 2
"""The first token comes with the prefill, so that there is a step of decoding behind it."""
MIB, SHORTEST_S = 1 << 20, 1e-6
TOLERANCE = 1e-3
"""For any logit in fp32."""
LOOP_S = 60.0
"""The time of the documentation's loop: it decodes a film from its beginning to its end."""
SLOW_S, SPENT_S = 10.0, 50.0
"""A round that takes longer than SLOW_S is repeated less often, so that all rounds take about SPENT_S."""
Tool = MeasuredEngine | MeasuredSnippet


@dataclass(kw_only=True)
class ModelBenchmark:
    """Measures one configuration of a model, or of the random weights that `random` names, on a device of this speed.

    `report` is called with a short phrase about what is being measured, `expect` with about the seconds that all will
    take. If `is_interrupted()` is true, KeyboardInterrupt is raised between two measurements.
    """

    tokens: Tokens
    random: str | None
    plan: LoadPlan
    speed: Speed
    frames: Frames
    limits: DecodeLimits
    """Of the processes that read the clip."""
    reading: Figure | None
    """How long that takes, where an earlier configuration was measured."""
    task: BenchTask
    is_interrupted: Callable[[], bool]
    report: Callable[[str], object]
    expect: Callable[[float], object]
    asked: BenchQuestion = field(init=False)
    snippet: MeasuredSnippet = field(init=False)
    ours: MeasuredEngine = field(init=False)

    def figures(self) -> Iterator[Figure]:
        """Yields each line of the table as soon as it is measured.

        A tool that runs out of memory has no value in that line, and a note says so. Errors: UsageError, ContextError,
        CheckpointError, MediaError, MemoryShortError (if both tools run out, or while loading).
        """
        asked = self.asked = self._asked()
        self.report("loading")
        free(self.plan.device)  # cycles would keep the models of an earlier configuration
        yield self._make(self.random) if self.random else self._load()
        yield self.reading or self._frames(self.frames.clip.path)
        prompt = len(asked.ids)
        roof = Roofline(
            config=self.ours.engine.model.config,
            checkpoint=self.tokens.checkpoint,
            plan=self.plan,
            speed=self.speed,
            prompt_tokens=prompt,
            new_tokens=asked.new_tokens,
        )
        peak = self._peak(roof)  # first, while nothing but the weights is in memory
        yield self._timed("vision", lambda tool: tool.vision_s(asked), roof.vision_s)
        yield self._timed("prefill", lambda tool: tool.prefill_s(asked), roof.pass_s(prompt), prompt, "tokens/s")
        yield self._timed("first token", lambda tool: tool.first_token_s(asked), roof.first_token_s)
        yield self._second_turn(roof)
        for number in self.task.batches:
            answer = partial(_decode_s, asked, number)
            decoded = number * (asked.new_tokens - 1)
            yield self._timed(f"decode, batch {number}", answer, roof.decode_s(number), decoded, "tokens/s")
        yield peak
        yield self._timed("batch", lambda tool: tool.clips_s(asked, CLIPS), roof.clips_s(CLIPS), CLIPS, "clips/s")

    def check(self) -> Agreement:
        """Compares our greedy tokens and logits with transformers', after `figures` ended. Errors: MemoryShortError.

        transformers computes with the snippet's untrimmed towers, or with our towers if the snippet's are quantised.
        """
        self.report("comparing tokens and logits")
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
            raise ContextError(
                f"The prompt has {len(asked.ids)} tokens and the context holds {context}: "
                "shorten the question, so that there is room for an answer to measure."
            )
        return replace(asked, new_tokens=min(left, max(LEAST_TOKENS, self.task.new_tokens)))

    def _load(self) -> Figure:
        """Measures loading both models, by turns; the last two stay.

        The limit is the time in which the device copies as many bytes as the files of the weights have.
        """
        plan, tokens, device, found = self.plan, self.asked.tokens, self.plan.device, dict[str, Any]()
        folder = tokens.checkpoint.folder

        def load_snippet() -> float:
            found.clear()
            free(device)
            return seconds_of(lambda: found.update(snippet=load_documented(plan, tokens.checkpoint)), device)

        def load_ours() -> float:
            # The snippet gets these from ours, so that no weight is held twice.
            found["snippet"].model.language_model = found["snippet"].lm_head = None
            free(device)
            return seconds_of(lambda: found.update(engine=load(plan, tokens, {"video"})), device)

        snippet, ours = self.alternate(load_snippet, load_ours, is_strict=True)
        self._take(found["snippet"], found["engine"])
        limit = sum((folder / name).stat().st_size for name in weight_files(folder)) / self.speed.bytes
        return Figure(name="load", unit="s", ours=ours, snippet=snippet, limit=limit)

    def _frames(self, path: Path) -> Figure:
        """Measures reading the clip in one decoder, and the documentation's loop in another. Errors: MediaError."""
        self.report("frames")
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
        """Makes random weights for our model, and for the parts that only the snippet has."""
        with memory_faults(self.plan.device):
            model = empty_model(trimmed(random_config(name)), self.plan, NOT_QUANTISED)
            model.model.image_tower = None
            fill(model, self.plan)
            snippet = empty_model(random_config(name), self.plan, ("lm_head",))
            self._take(snippet, Engine(model=model, tokens=self.asked.tokens, plan=self.plan))
            fill(snippet, self.plan)
        return Figure(name="load", unit="s", note="Random weights are made, not loaded.")

    def _take(self, snippet: Any, engine: Engine) -> None:
        """Makes the two tools; the snippet takes over our language model, so that both have the same one."""
        snippet.model.language_model, snippet.lm_head = engine.model.model.language_model, engine.model.lm_head
        self.snippet = MeasuredSnippet(model=snippet, plan=self.plan)
        self.ours = MeasuredEngine(engine=engine, is_interrupted=self.is_interrupted)

    def _peak(self, roof: Roofline) -> Figure:
        """Measures the memory of a first answer of each tool; from its time, it estimates that of all measurements.

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

    def _second_turn(self, roof: Roofline) -> Figure:
        name, asked = "first token, turn 2", self.asked
        try:
            again = replace(asked, turns=(self.ours.turn(asked, LEAST_TOKENS),))
            limit_s = roof.pass_s(len(again.ids) - len(asked.ids))
        except ContextError:
            return Figure(name=name, unit="ms", note="The context has no room for a second turn.")
        return self._timed(name, lambda tool: tool.second_turn_s(asked, again), limit_s)

    def _timed(
        self, name: str, work: Callable[[Tool], float], limit_s: float, amount: float = 0, unit: Unit = "ms"
    ) -> Figure:
        """Measures the seconds that `work` returns, shown in ms or as a rate: `amount` divided by the seconds."""

        def shown(seconds: float) -> float:
            return amount / max(seconds, SHORTEST_S) if amount else 1000 * seconds

        return self._figure(name, unit, lambda tool: shown(work(tool)), shown(limit_s))

    def _figure(
        self,
        name: str,
        unit: Unit,
        measure: Callable[[Tool], float],
        limit: float | None = None,
        repeat: int | None = None,
    ) -> Figure:
        self.report(name)
        snippet, ours = self.alternate(partial(measure, self.snippet), partial(measure, self.ours), repeat=repeat)
        missing = {"This tool ran out of memory.": ours, "The snippet ran out of memory.": snippet}
        note = next((sentence for sentence, found in missing.items() if found is None), "")
        return Figure(name=name, unit=unit, ours=ours, snippet=snippet, limit=limit, note=note)

    def alternate(
        self, *measures: Callable[[], float], repeat: int | None = None, is_strict: bool = False
    ) -> list[Measured | None]:
        """Runs the measurements by turns, A B A B …, so that a change of the machine's speed affects all of them.

        The first round warms up; it counts only if no other round follows. A measurement that runs out of memory gives
        None and isn't repeated; if it `is_strict` or the last one left, its MemoryShortError is raised. Raises
        KeyboardInterrupt before or after a measurement.
        """
        found: dict[Callable[[], float], list[float]] = {measure: [] for measure in measures}
        rounds, done = 1, 0
        while done < rounds:
            started_s = time.perf_counter()
            for measure in list(found):
                self._stop_if_interrupted()
                try:
                    with memory_faults(self.plan.device):
                        found[measure].append(measure())
                    continue
                except MemoryShortError:
                    if is_strict or len(found) == 1:
                        raise
                    del found[measure]
                free(self.plan.device)  # the error, which kept the tensors of its frames, is gone by now
            self._stop_if_interrupted()
            if not done:
                rounds += repeats_of(time.perf_counter() - started_s, self.task.repeat if repeat is None else repeat)
            done += 1
        values = [found.get(measure, []) for measure in measures]
        return [Measured(values=tuple(each[1:] or each)) if each else None for each in values]

    def _stop_if_interrupted(self) -> None:
        if self.is_interrupted():
            raise KeyboardInterrupt


def expected_s(roof: Roofline, task: BenchTask, slowness: float) -> float:
    """Estimates the seconds of all further measurements; the first answers took `slowness` times their limit."""
    first_s = roof.first_token_s
    rounds = [2 * roof.vision_s, 2 * roof.pass_s(roof.prompt_tokens), 2 * first_s, 2 * first_s]
    rounds += [(1 + each) * first_s + 2 * roof.decode_s(each) for each in task.batches]
    rounds.append(roof.clips_s(CLIPS) + roof.clips_s(1))
    return sum(slowness * each * (1 + repeats_of(slowness * each, task.repeat)) for each in rounds)


def _decode_s(asked: BenchQuestion, sequences: int, tool: Tool) -> float:
    return tool.answer(asked, sequences=sequences)[1]


def peak_bytes(work: Callable[[], object], device: str) -> int | None:
    """Runs `work` and returns the peak memory, models included. If none can be measured: None, and nothing runs."""
    free(device)
    if device.startswith(("cuda", "xpu")):
        torch.accelerator.reset_peak_memory_stats(device)
        work()
        return int(torch.accelerator.max_memory_allocated(device))
    if device != "cpu" or sys.platform != "linux":
        return None
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)  # memory that was freed would count until the system has it back
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the process's peak begins anew
    except OSError:
        return None
    work()
    status = Path("/proc/self/status").read_text().splitlines()
    return next((int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:")), None)


def repeats_of(round_s: float, repeat: int) -> int:
    """Counts the rounds that follow a first round of so many seconds: (0.1, 5) → 5; (20, 5) → 2; (60, 5) → 0."""
    return repeat if round_s <= SLOW_S else min(repeat, int(SPENT_S / round_s))
