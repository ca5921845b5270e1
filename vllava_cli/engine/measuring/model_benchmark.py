"""Measures a model with this tool and with the documentation's snippet, and compares with the limit of the device.

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

from vllava_cli.engine import device_speed
from vllava_cli.engine.forward import memory_faults
from vllava_cli.engine.generate import Engine
from vllava_cli.engine.hub import weight_files
from vllava_cli.engine.load import NOT_QUANTISED, load, load_documented, trimmed
from vllava_cli.engine.measuring.figures import Agreement, BenchTask, Figure, Measured, Roofline, Unit
from vllava_cli.engine.measuring.measured_tools import BenchQuestion, MeasuredEngine, MeasuredSnippet, free, seconds_of
from vllava_cli.engine.measuring.random_weights import empty_model, fill, random_config
from vllava_cli.engine.tokens import Tokens
from vllava_cli.errors import ContextError, MediaError, MemoryShortError, VllavaError
from vllava_cli.media.decoder.client import DecoderClient
from vllava_cli.nouns import DecodeLimits, Frames, Framing, LoadPlan, Speed

CLIPS = 8
"""The size of the batch of clips that is measured as a whole."""
LEAST_TOKENS = 2
"""The prefill gives the first token; the second one is the first that a step of decoding gives."""
MIB, SHORTEST_S = 1 << 20, 1e-6
TOLERANCE = 1e-3
"""How much any logit may differ from transformers' in fp32."""
LOOP_S = 60.0
"""The time of the documentation's loop: it decodes a film from its beginning to its end."""
SLOW_S = 10.0
"""A round that takes longer is repeated less often."""
SPENT_S = 50.0
"""About the time that all rounds of one measurement may take then."""
Tool = MeasuredEngine | MeasuredSnippet
Faults = tuple[type[VllavaError], ...]


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
    """The limits of the processes that read the clip."""
    reading: Figure | None
    """The time of reading the clip, if an earlier configuration has measured it already."""
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
        prompt, decoded = len(asked.ids), asked.new_tokens - 1
        roof = Roofline(
            config=self.ours.engine.model.config,
            checkpoint=self.tokens.checkpoint,
            plan=self.plan,
            speed=self.speed,
            prompt_tokens=prompt,
            new_tokens=asked.new_tokens,
        )
        peak = self._peak(roof)  # first, while nothing but the weights is in memory
        yield self._figure("vision", "ms", lambda tool: 1000 * tool.vision_s(asked), 1000 * roof.vision_s)
        limit = prompt / roof.prefill_s(prompt)
        yield self._figure("prefill", "tokens/s", lambda tool: prompt / tool.prefill_s(asked), limit)
        yield self._figure(
            "first token", "ms", lambda tool: 1000 * tool.first_token_s(asked), 1000 * roof.first_token_s
        )
        yield self._second_turn(roof)
        for number in self.task.batches:
            rate = partial(_tokens_per_s, asked, number)
            yield self._figure(f"decode, batch {number}", "tokens/s", rate, number * decoded / roof.decode_s(number))
        yield peak
        yield self._figure(
            "batch", "clips/s", lambda tool: CLIPS / tool.clips_s(asked, CLIPS), CLIPS / roof.clips_s(CLIPS)
        )

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

        snippet, ours = self.alternate(load_snippet, load_ours, faults=())
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
            ours, *loop = self.alternate(*measures, faults=())
        return Figure(name="frames", unit="s", ours=ours, snippet=loop[0] if loop else None, note=note)

    def _make(self, name: str) -> Figure:
        """Makes random weights for our model, and for the parameters that only the snippet has."""
        with memory_faults(self.plan.device):
            model = empty_model(trimmed(random_config(name)), self.plan, NOT_QUANTISED)
            model.model.image_tower = None
            fill(model, self.plan)
            snippet = empty_model(random_config(name), self.plan, ("lm_head",))
            self._take(snippet, Engine(model=model, tokens=self.asked.tokens, plan=self.plan))
            fill(snippet, self.plan)
        return Figure(name="load", unit="s", note="Random weights are made, not loaded.")

    def _take(self, snippet: Any, engine: Engine) -> None:
        self.snippet = MeasuredSnippet(model=snippet, plan=self.plan)
        self.snippet.share(engine.model)
        self.ours = MeasuredEngine(engine=engine, is_interrupted=self.is_interrupted)

    def _peak(self, roof: Roofline) -> Figure:
        """Measures the memory of each tool's first answer; from its duration, estimates that of all measurements.

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
            again = replace(asked, turns=(self.ours.turn(asked, LEAST_TOKENS)[0],))
            limit = 1000 * roof.prefill_s(len(again.ids) - len(asked.ids))
        except ContextError:
            return Figure(name=name, unit="ms", note="The context has no room for a second turn.")
        return self._figure(name, "ms", lambda tool: 1000 * tool.second_turn_s(asked, again), limit)

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
        self, *measures: Callable[[], float], repeat: int | None = None, faults: Faults = (MemoryShortError,)
    ) -> list[Measured | None]:
        """Runs the measurements by turns, A B A B …, so that a change of the machine's speed affects all of them.

        The first round warms up; it counts only if no other round follows. A measurement that fails by one of `faults`
        is left out from then on and gives None. Raises KeyboardInterrupt before or after a measurement.
        Errors: other faults at once; if all measurements failed, the fault of the last.
        """
        found: list[list[float]] = [[] for _ in measures]
        failed: dict[int, VllavaError] = {}

        def run_round() -> float:
            started_s = time.perf_counter()
            for number in [number for number in range(len(measures)) if number not in failed]:
                self._stop_if_interrupted()
                try:
                    with memory_faults(self.plan.device):
                        found[number].append(measures[number]())
                except faults as exc:
                    failed[number] = type(exc)(*exc.args)  # the error itself would keep its frames' tensors in memory
                    free(self.plan.device)
            self._stop_if_interrupted()
            return time.perf_counter() - started_s

        for _ in range(repeats_of(run_round(), self.task.repeat if repeat is None else repeat)):
            run_round()
        if len(failed) == len(measures):
            raise failed[len(measures) - 1]
        return [
            None if number in failed else Measured(values=tuple(each[1:] or each)) for number, each in enumerate(found)
        ]

    def _stop_if_interrupted(self) -> None:
        if self.is_interrupted():
            raise KeyboardInterrupt


def fastest(plan: LoadPlan) -> Speed:
    """Measures the device three times and returns the highest speeds: a disturbance can only make one lower."""
    found = [device_speed.measured(plan) for _ in range(3)]
    return Speed(operations=max(each.operations for each in found), bytes=max(each.bytes for each in found))


def expected_s(roof: Roofline, task: BenchTask, slowness: float) -> float:
    """Estimates the seconds of all further measurements; the first answers took `slowness` times their limit."""
    first_s, prefill_s = roof.first_token_s, roof.prefill_s(roof.prompt_tokens)
    rounds = [2 * roof.vision_s, 2 * prefill_s, 2 * first_s, 2 * first_s, roof.clips_s(CLIPS) + roof.clips_s(1)]
    rounds += [(1 + each) * first_s + 2 * roof.decode_s(each) for each in task.batches]
    return sum(slowness * each * (1 + repeats_of(slowness * each, task.repeat)) for each in rounds)


def _tokens_per_s(asked: BenchQuestion, sequences: int, tool: Tool) -> float:
    _, decode_s = tool.answer(asked, sequences=sequences)
    return sequences * (asked.new_tokens - 1) / max(decode_s, SHORTEST_S)


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
    """Counts the rounds that follow a first round of this many seconds: (0.1, 5) → 5; (20, 5) → 2; (60, 5) → 0."""
    return repeat if round_s <= SLOW_S else min(repeat, int(SPENT_S / round_s))
