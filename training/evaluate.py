"""How often the demo answers rightly, kind by kind: `python -m training.evaluate [--clips N] [--seed S] [--wrong]`.

Held-out files are made in a temporary folder and asked about the way vllava itself does it, in fp32 on the CPU.
An answer is right when it is the expected one to the letter.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from training.asking import Item
from training.heldout import HeldOut, make
from vllava_cli.answers import Conversation, Sampling
from vllava_cli.demo import CHECKPOINT
from vllava_cli.engine.checkpoint import describe
from vllava_cli.engine.generate import Engine
from vllava_cli.engine.load import load
from vllava_cli.engine.tokens import read_tokens
from vllava_cli.media.sample import sample
from vllava_cli.nouns import Frames, Framing, LoadPlan, Source

CLIPS = 250
SEED = 1
GREEDY = Sampling(max_new_tokens=32)
PLAN = LoadPlan(
    device="cpu",
    dtype="float32",
    quantisation=None,
    attention="sdpa",
    needed_bytes=0,
    device_reason="Figures should not depend on the machine.",
    dtype_reason="Figures should not depend on the machine.",
    quantisation_reason="The model is tiny.",
    attention_reason="It works everywhere.",
)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One question that counted, and what the model said."""

    path: Path
    item: Item
    answer: str

    @property
    def is_right(self) -> bool:
        return self.answer == self.item.answer

    @property
    def rows(self) -> tuple[str, ...]:
        """The rows of the table in which it counts: ("direction", "direction: up-left")."""
        if self.item.kind != "direction":
            return (self.item.kind,)
        return ("direction", f"direction: {self.item.answer.rstrip('.').lower()}")


@dataclass(frozen=True, kw_only=True)
class Row:
    """How many questions of one kind were asked and answered rightly."""

    kind: str
    asked: int
    right: int

    @property
    def share(self) -> float:
        return self.right / self.asked


def outcomes(checkpoint: Path, held_out: Iterable[HeldOut]) -> Iterator[Outcome]:
    """Asks every question about every file; questions about one file share the clip's part of the KV cache."""
    engine = engine_of(checkpoint)
    for shown in held_out:
        frames = sample(shown.path, Framing())
        for item in shown.items:
            yield Outcome(path=shown.path, item=item, answer=_answer(engine, frames, item))


def rows(found: Iterable[Outcome]) -> list[Row]:
    """The table, sorted by kind; each direction stands below the whole."""
    verdicts: dict[str, list[bool]] = {}
    for outcome in found:
        for kind in outcome.rows:
            verdicts.setdefault(kind, []).append(outcome.is_right)
    return [Row(kind=kind, asked=len(row), right=sum(row)) for kind, row in sorted(verdicts.items())]


def engine_of(checkpoint: Path) -> Engine:
    tokens = read_tokens(describe(Source(model=str(checkpoint), folder=checkpoint)))
    return load(PLAN, tokens, {"video", "image"})


def _answer(engine: Engine, frames: Frames, item: Item) -> str:
    """What the model says to the last question, after its own answers to those before."""
    conversation = Conversation(attached=(frames,))
    said = ["".join(engine.stream(conversation, question, GREEDY)) for question, _ in item.turns]
    return said[-1]


def _lines(found: list[Outcome], *, is_showing_wrong: bool) -> Iterator[str]:
    yield f"{'kind':<32}{'questions':>10}{'right':>8}{'percent':>9}"
    for row in rows(found):
        yield f"{row.kind:<32}{row.asked:>10}{row.right:>8}{row.share:>9.1%}"
    right = sum(outcome.is_right for outcome in found)
    yield f"{'all':<32}{len(found):>10}{right:>8}{right / len(found):>9.1%}"
    for outcome in found if is_showing_wrong else ():
        if not outcome.is_right:
            asked = " / ".join(question for question, _ in outcome.item.turns)
            yield f"{outcome.path.name} {outcome.item.kind}: {asked} -> {outcome.answer} ({outcome.item.answer})"


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m training.evaluate")
    parser.add_argument("--clips", type=int, default=CLIPS)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument("--wrong", action="store_true", help="print the wrong answers too")
    told = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as folder:
        found = list(outcomes(told.checkpoint, make(Path(folder), told.clips, told.seed)))
    sys.stdout.writelines(f"{line}\n" for line in _lines(found, is_showing_wrong=told.wrong))


if __name__ == "__main__":
    main(sys.argv[1:])
