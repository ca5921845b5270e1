"""The parts of bench-serve. Each yields the lines of its table, and the targets among them."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from random import Random
from statistics import median
from tempfile import TemporaryDirectory

from benchmarks.harness import ROOT, Finished, ProcessError, Target, alternate, run_module
from benchmarks.new_clips import ORDINARY, SMALL, ClipForm, new_clip
from benchmarks.serve_clients import Known, chat, completion, data_uri, exchange, first_letter_s, uri_of
from benchmarks.serve_process import VLLAVA, ServerProcess, serving
from benchmarks.serve_trial import known_answers
from vllava_cli import demo
from vllava_cli.nouns import DEMO_MODEL

CLIENTS = 16
BASELINE = "benchmarks.serve_baseline"
CLIP = demo.CLIPS / "red-circle-moves-left.mp4"
FIRST, SECOND = "What happens in this video?", "What colour is it?"


@dataclass(frozen=True, kw_only=True)
class Bench:
    """How much is measured."""

    answers: int
    asks: int
    repeat: int
    random: Random
    model: str = DEMO_MODEL
    """The model of the part letter: in the demo's few milliseconds a process can't even start."""

    @cached_property
    def known(self) -> list[Known]:
        """Questions about the demo's videos, with the answers that the model gives when it is asked alone."""
        return [known for known in known_answers() if known.clip.suffix == ".mp4" and not known.choices]

    def new_uri(self, clip: Path, form: ClipForm) -> str:
        """Returns the data URI of a clip that shows the same as `clip`, in pixels that no server has seen."""
        return uri_of(new_clip(clip, form, self.random), clip)


@dataclass(frozen=True, kw_only=True)
class Round:
    """What a crowd of clients got."""

    seconds: float
    answers: int
    right: int

    @property
    def rate(self) -> float:
        return self.answers / self.seconds


def throughput(bench: Bench) -> Iterator[str | Target]:
    """Clients at once, at both servers in turn: with clips that are asked about again and again, and with new ones."""
    with ExitStack() as stack:
        ours, theirs = stack.enter_context(serving(*VLLAVA)), stack.enter_context(serving(BASELINE))
        for name, is_fresh in (("clips that come again", False), ("each clip new", True)):
            rounds = alternate(
                {
                    "serve": lambda is_fresh=is_fresh: crowd(bench, ours, is_fresh),  # type: ignore[misc]
                    "generate": lambda is_fresh=is_fresh: crowd(bench, theirs, is_fresh),  # type: ignore[misc]
                },
                bench.repeat,
            )
            rates = {tool: median(each.rate for each in found) for tool, found in rounds.items()}
            right = {tool: sum(each.right for each in found) for tool, found in rounds.items()}
            asked = bench.answers * bench.repeat
            ratio = rates["serve"] / rates["generate"]
            said = ", ".join(f"{tool} {rate:.1f} answers a second" for tool, rate in rates.items())
            yield f"{CLIENTS} clients, {name}: {said}; right, of {asked}: {right['serve']} and {right['generate']}"
            if is_fresh:
                yield f"  {ratio:.2f} times as many"
            else:
                yield Target(text=f"{ratio:.2f} times as many (at least 3)", is_met=ratio >= 3)
                yield Target(text="all answers of the server are right", is_met=right["serve"] == asked)


def crowd(bench: Bench, server: ServerProcess, is_fresh: bool) -> Round:
    """Lets the clients ask until so many answers have come; the first of them don't count."""
    return asyncio.run(_crowd(bench, server, is_fresh))


async def _crowd(bench: Bench, server: ServerProcess, is_fresh: bool) -> Round:
    asked = [bench.known[number % len(bench.known)] for number in range(bench.answers)]
    urls = [bench.new_uri(known.clip, SMALL) if is_fresh else data_uri(known.clip) for known in asked]
    sent = [chat(completion(known, url)) for known, url in zip(asked, urls, strict=True)]
    warm = [chat(completion(known, data_uri(known.clip))) for known in bench.known]
    await asyncio.gather(*(exchange(server.address, each) for each in warm))
    numbers, found = iter(range(bench.answers)), dict[int, str]()

    async def client() -> None:
        for number in numbers:
            found[number] = (await exchange(server.address, sent[number])).text.strip()

    started_s = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    seconds = time.perf_counter() - started_s
    right = sum(found[number] == known.answer for number, known in enumerate(asked))
    return Round(seconds=seconds, answers=bench.answers, right=right)


def loop(bench: Bench) -> Iterator[str | Target]:
    """`vllava ask` again and again, with the server and without it in turn."""
    with serving(*VLLAVA) as server:

        def ask(wish: str) -> Finished:
            words = ("ask", "--model", "demo", "--quiet", "--server", wish, str(CLIP), FIRST)
            return run_module("vllava_cli", *words, environment=server.environment)

        workers: dict[str, Callable[[], Finished]] = {wish: lambda wish=wish: ask(wish) for wish in ("auto", "off")}  # type: ignore[misc]
        alternate(workers, 1)  # warms up
        found = alternate(workers, bench.asks)
    walls, cpus = (
        {wish: sum(getattr(each.times, name) for each in runs) for wish, runs in found.items()}
        for name in ("wall_s", "cpu_s")
    )
    yield (
        f"{bench.asks} asks: {walls['auto']:.1f} s with the server, {walls['off']:.1f} s without; "
        f"CPU of one ask {cpus['auto'] / bench.asks:.2f} s and {cpus['off'] / bench.asks:.2f} s"
    )
    share = walls["auto"] / walls["off"]
    yield Target(text=f"with the server {share:.3f} of the time without (at most 0.125)", is_met=share <= 0.125)
    texts = {each.stdout for runs in found.values() for each in runs}
    yield Target(text=f"the same answer each time: {' / '.join(sorted(texts)).strip()}", is_met=len(texts) == 1)


def second(bench: Bench) -> Iterator[str | Target]:
    """Two questions about a clip that the server hasn't seen, again and again, with clips of two forms."""
    with serving(*VLLAVA) as server:

        def ask(question: str, url: str) -> float:
            body = completion(Known(clip=CLIP, question=question, answer=""), url, is_streaming=True)
            return asyncio.run(first_letter_s(server.address, chat(body)))

        for form in (ORDINARY, SMALL):
            urls = [bench.new_uri(CLIP, form) for _ in range(1 + 3 * bench.repeat)]
            pairs = [(ask(FIRST, url), ask(SECOND, url)) for url in urls]
            first_s, second_s = (median(times) for times in zip(*pairs[1:], strict=True))
            ratio = second_s / first_s
            times = f"first question {first_s * 1000:.1f} ms, second {second_s * 1000:.1f} ms to the first letter"
            if form is ORDINARY:
                yield f"{form.text}: {times}"
                yield Target(text=f"the second takes {ratio:.3f} of the first (at most 0.2)", is_met=ratio <= 0.2)
            else:
                yield f"{form.text}: {times}, {ratio:.3f} of the first"


def letter(bench: Bench) -> Iterator[str | Target]:
    """The time of a whole `vllava ask` to its first letter, beside what the engine says of frames and first token.

    Each is asked about a clip that the server hasn't seen, in turn: once streamed, once as JSON.
    """
    ours: list[float] = []
    engines: list[float] = []
    words = ("--model", bench.model, "--quiet", "--max-new-tokens", "4")
    with serving(*VLLAVA[:2], "--model", bench.model, "--port", "0") as server, TemporaryDirectory() as folder:
        for number in range(1 + bench.repeat):
            for times, form in ((ours, "--stream"), (engines, "--json")):
                clip = Path(folder) / f"{number}{form}.mp4"
                clip.write_bytes(new_clip(CLIP, ORDINARY, bench.random))
                command = [sys.executable, "-m", "vllava_cli", "ask", *words, form, str(clip), FIRST]
                started_s = time.perf_counter()
                with subprocess.Popen(command, cwd=ROOT, env=server.environment, stdout=subprocess.PIPE) as process:
                    said = process.stdout.read(1) if process.stdout else b""
                    first_s = time.perf_counter() - started_s
                    said += process.stdout.read() if process.stdout else b""
                if process.returncode:
                    raise ProcessError(f"ask ended with exit code {process.returncode}")
                timings = json.loads(said)["timings_s"] if form == "--json" else {}
                times.append(timings["frames"] + timings["first_token"] if timings else first_s)
    first_s, engine_s = median(ours[1:]), median(engines[1:])
    ratio = first_s / engine_s
    yield f"first letter of an ask {first_s:.3f} s, of which frames and first token {engine_s:.3f} s by the engine"
    text = f"{ratio:.3f} of the engine's own time (at most 1.2)"
    yield text if bench.model == DEMO_MODEL else Target(text=text, is_met=ratio <= 1.2)


PARTS: dict[str, Callable[[Bench], Iterator[str | Target]]] = {
    "throughput": throughput,
    "loop": loop,
    "second": second,
    "letter": letter,
}


def measured(bench: Bench, names: Sequence[str]) -> Iterator[str | Target]:
    for name in names:
        yield from PARTS[name](bench)
