"""The load trial of `vllava serve`: `python -m benchmarks.serve_trial` starts a server and asks it all at once.

Clients that hang up, send rubbish or read slowly come with others, and decoding processes are killed in between: every
other request must get the answer that the model gives when nothing else is asked. Then comes a long row of requests,
after which the server must hold no more than before. It prints what was found, and exits with 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from statistics import fmean
from tempfile import TemporaryDirectory

from benchmarks.harness import ProcessError, Target, run_module
from benchmarks.machine import machine
from benchmarks.serve_clients import (
    Known,
    ReplyError,
    chat,
    completion,
    data_uri,
    exchange,
    fresh_uri,
    hang_up,
    rubbish,
    upload,
)
from benchmarks.serve_process import VLLAVA, Counts, ServerProcess, serving
from vllava_cli import demo

QUESTIONS = ("What happens in this video?", "Which shape is it?", "What colour is it?", "What comes first?")
CHOICES = ("yes", "no")
CHOICE_QUESTION = "Is there a circle?"
FLAT = 1.03
"""The most that memory in the last fifth of the requests may be, beside the second fifth."""
SETTLE_S = 30.0
KILL_EVERY_S, LEAST_AGE_S = 0.4, 2.0
"""A decoding process is killed so often; one that has just begun is left alone, as a file gets few fresh ones."""
PAUSE_S = 0.02
QUEUE = 64
"""So few questions may wait that some clients are told to ask again."""


@dataclass(kw_only=True)
class Tally:
    """What became of the requests."""

    right: int = 0
    wrong: list[str] = field(default_factory=list)
    refused: int = 0
    taken: list[str] = field(default_factory=list)
    """Rubbish that got something else than a refusal."""
    hung_up: int = 0
    turned_away: int = 0
    """Replies with 429, after which a client waits as long as it is told and asks again."""
    killed: int = 0

    def __str__(self) -> str:
        return (
            f"{self.right} right answers, {self.hung_up} clients hung up, {self.refused} pieces of rubbish refused, "
            f"{self.turned_away} times asked to wait, {self.killed} decoding processes killed"
        )

    def targets(self) -> Iterator[Target]:
        asked = self.right + len(self.wrong)
        first = "".join(f"; {fault}" for fault in self.wrong[:3])
        yield Target(text=f"answered rightly: {self.right} of {asked}{first}", is_met=not self.wrong and asked > 0)
        sent = self.refused + len(self.taken)
        first = "".join(f"; {fault}" for fault in self.taken[:3])
        yield Target(text=f"rubbish refused: {self.refused} of {sent}{first}", is_met=not self.taken)


@dataclass(kw_only=True)
class Load:
    """The requests to a server, drawn at random."""

    server: ServerProcess
    known: Sequence[Known]
    random: Random
    fresh_share: float
    """The share of clips that the server hasn't seen."""
    tally: Tally = field(default_factory=Tally)

    async def ask(self, *, pause_s: float = 0.0) -> None:
        """Asks something whose answer is known, as often as it is turned away, and notes how it was answered."""
        known, is_streaming = self.random.choice(self.known), self.random.random() < 0.6
        try:
            body = completion(known, await self._url(known.clip), is_streaming=is_streaming and not known.choices)
            while (reply := await exchange(self.server.address, chat(body), pause_s=pause_s)).status == 429:
                self.tally.turned_away += 1
                await asyncio.sleep(float(reply.headers["retry-after"]))
            found = reply.text.strip()
        except (ReplyError, OSError, KeyError, ValueError) as exc:
            found = f"{type(exc).__name__}: {exc}"
        if found == known.answer:
            self.tally.right += 1
        else:
            self.tally.wrong.append(f"{known.clip.name}, {known.question} → {found!r}, not {known.answer!r}")

    async def read_slowly(self) -> None:
        await self.ask(pause_s=PAUSE_S)

    async def hang_up(self) -> None:
        known = self.random.choice(self.known)
        body = completion(known, await self._url(known.clip), is_streaming=self.random.random() < 0.6)
        await hang_up(self.server.address, chat(body), self.random)
        self.tally.hung_up += 1

    async def send_rubbish(self) -> None:
        sent = rubbish(self.random.choice(self.known), self.random)
        try:
            status = (await exchange(self.server.address, sent)).status
        except (ReplyError, OSError):
            status = 0  # the connection was closed, which is a refusal, too
        if status == 0 or 400 <= status < 500:
            self.tally.refused += 1
        else:
            self.tally.taken.append(f"status {status} to {sent[:300]!r}")

    async def _url(self, clip: Path) -> str:
        drawn = self.random.random()
        if drawn < self.fresh_share:
            return fresh_uri(clip, self.random)
        if drawn < 0.5:
            return data_uri(clip)
        if drawn < 0.75:
            return clip.as_uri()
        reply = await exchange(self.server.address, upload(clip))
        if reply.status != 200:
            raise ReplyError(f"an upload got status {reply.status}: {reply.body[:200]!r}")
        return str(json.loads(reply.body)["id"])

    def request(self, number: int) -> Coroutine[None, None, None]:
        """Returns the request of the client with this number: of ten, two hang up, one sends rubbish, one is slow."""
        kinds = {0: self.hang_up, 5: self.hang_up, 3: self.send_rubbish, 7: self.read_slowly}
        return kinds.get(number % 10, self.ask)()


def known_answers() -> list[Known]:
    """Asks the model without a server, one question after the other. Errors: ProcessError."""
    found: list[Known] = []
    asked: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = ((QUESTIONS, ()), ((CHOICE_QUESTION,), CHOICES))
    with TemporaryDirectory() as folder:
        for questions, choices in asked:
            words = [word for question in questions for word in ("-Q", question)]
            words += ["--choices", ",".join(choices)] if choices else []
            words += ["--server", "off", "--batch-size", "1", "--model", "demo", "--quiet", "--no-clip-cache"]
            output = Path(folder) / f"{len(found)}.jsonl"
            run_module("vllava_cli", "batch", *words, "-o", str(output), *map(str, demo.clips()))
            for row in map(json.loads, output.read_text().splitlines()):
                clip, answer = demo.CLIPS / Path(row["path"]).name, row["answer"].strip()
                found.append(Known(clip=clip, question=row["question"], answer=answer, choices=choices))
    return found


async def crowd(load: Load, clients: int, rounds: int) -> None:
    """All clients at once, each with so many requests after each other."""

    async def client(number: int) -> None:
        for _ in range(rounds):
            await load.request(number)

    async with decoders_dying(load):
        await asyncio.gather(*map(client, range(clients)))


async def steady(load: Load, requests: int, clients: int) -> list[int]:
    """A long row of requests, so many at a time; returns the server's memory after each hundredth, in bytes."""
    numbers, memory = iter(range(requests)), list[int]()

    async def client() -> None:
        for number in numbers:
            await load.request(number)
            if number % max(1, requests // 100) == 0:
                memory.append(load.server.counts().rss_bytes)

    await asyncio.gather(*(client() for _ in range(clients)))
    return memory


@asynccontextmanager
async def decoders_dying(load: Load) -> AsyncIterator[None]:
    """Kills a decoding process of the server again and again until the end of the block."""

    async def kill() -> None:
        while True:
            await asyncio.sleep(KILL_EVERY_S)
            load.tally.killed += load.server.kill_child(LEAST_AGE_S)

    killing = asyncio.create_task(kill())
    try:
        yield
    finally:
        killing.cancel()
        with suppress(asyncio.CancelledError):
            await killing


async def settled(server: ServerProcess, before: Counts) -> Counts:
    """Waits until the server holds no more descriptors and processes than before, for a while."""
    for _ in range(round(SETTLE_S / 0.5)):
        now = server.counts()
        if now.descriptors <= before.descriptors and now.children <= before.children:
            break
        await asyncio.sleep(0.5)
    return now


async def trial(server: ServerProcess, options: argparse.Namespace) -> list[str | Target]:
    """Returns the lines of the report. Errors: ProcessError."""
    known, random = await asyncio.to_thread(known_answers), Random(options.seed)
    warm = Load(server=server, known=known, random=random, fresh_share=0.5)
    await asyncio.gather(*(warm.ask() for _ in range(32)))
    before = server.counts()

    crowded = Load(server=server, known=known, random=random, fresh_share=0.3)
    await crowd(crowded, options.clients, options.rounds)
    lines: list[str | Target] = [
        f"{options.clients} clients at once, {options.rounds} requests of each: {crowded.tally}"
    ]
    lines += crowded.tally.targets()

    long = Load(server=server, known=known, random=random, fresh_share=options.fresh)
    memory = await steady(long, options.requests, options.at_once)
    lines += [f"{options.requests} requests, {options.at_once} at a time: {long.tally}", *long.tally.targets()]
    fifth = max(1, len(memory) // 5)
    second, last = fmean(memory[fifth : 2 * fifth]), fmean(memory[-fifth:])
    said = (
        f"memory {second / 2**20:.0f} MiB in the second fifth, {last / 2**20:.0f} MiB in the last: {last / second:.3f}"
    )
    if options.requests >= 1000:
        lines.append(Target(text=f"{said} (at most {FLAT})", is_met=last <= FLAT * second))
    else:
        lines.append(f"{said}, which so few requests don't decide")

    after = await settled(server, before)
    lines.append(f"the server before: {before}; after: {after}")
    lost = after.descriptors - before.descriptors
    lines.append(Target(text=f"descriptors lost: {max(0, lost)}", is_met=lost <= 0))
    more = after.children - before.children
    lines.append(Target(text=f"child processes left over: {max(0, more)}", is_met=more <= 0))
    return lines


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=200, help="how many ask at once")
    parser.add_argument("--rounds", type=int, default=5, help="how often each of them asks")
    parser.add_argument("--requests", type=int, default=5000, help="how many requests follow")
    parser.add_argument("--at-once", type=int, default=16, help="how many of those at a time")
    parser.add_argument("--fresh", type=float, default=0.02, help="the share of those about a clip of its own")
    parser.add_argument("--seed", type=int, default=21)
    options = parser.parse_args(words)
    sys.stdout.write(f"{machine()}\n")
    try:
        with serving(*VLLAVA, "--root", str(demo.CLIPS), "--queue", str(QUEUE)) as server:
            lines = asyncio.run(trial(server, options))
    except ProcessError as exc:
        sys.stderr.write(f"{exc}\n")
        return 1
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return 0 if all(line.is_met for line in lines if isinstance(line, Target)) else 1


if __name__ == "__main__":
    sys.exit(main())
