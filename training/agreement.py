"""How often the demo is right, by how many of its samples agree: `python -m training.agreement [--clips N] [--seed S]`.

The files and the questions are those of `training.evaluate`, without stills, which have no other samples, and without
questions that follow on others. An answer is right when it is the expected one to the letter.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from training.evaluate import CLIPS, GREEDY, SEED, engine_of
from training.heldout import HeldOut, make
from vllava_cli.answers import Agreeing
from vllava_cli.demo import CHECKPOINT
from vllava_cli.engine.agreement import agreed, answers_about, distinct
from vllava_cli.media.sample import sample
from vllava_cli.nouns import Framing

WANTED = Agreeing(samples=5)
BOUNDS = (1.0, 0.75, 0.5, 0.0)
"""The least share of each row of the table."""


@dataclass(frozen=True, kw_only=True)
class Vote:
    """One question: the share of the samples that agreed, and whether they and the first sample alone are right."""

    share: float
    is_right: bool
    is_first_right: bool


def votes(checkpoint: Path, held_out: Iterable[HeldOut]) -> Iterator[Vote]:
    """Asks every first question about the samples of every video that has several."""
    engine = engine_of(checkpoint)
    for shown in held_out:
        shifts = WANTED.shifts(Framing())
        samples = list(distinct({shift: sample(shown.path, Framing(shift=shift)) for shift in shifts}).values())
        times_s = [frames.times_s for frames in samples]
        for item in shown.items if len(samples) > 1 else ():
            if len(item.turns) == 1:
                answers = answers_about(engine, samples, item.turns[0][0], GREEDY, "crop")
                _, answer = agreed(answers, times_s, WANTED, GREEDY, kind="video")
                share = answer.agreement.share if answer.agreement else 0.0
                is_right, is_first_right = (each.text == item.answer for each in (answer, answers[0]))
                yield Vote(share=share, is_right=is_right, is_first_right=is_first_right)


def lines(found: list[Vote]) -> Iterator[str]:
    yield f"{'share that agrees':<24}{'questions':>10}{'right':>8}{'percent':>9}"
    for least, above in zip(BOUNDS, (2.0, *BOUNDS), strict=False):
        rows = [vote.is_right for vote in found if least <= vote.share < above]
        name = "all" if least == 1 else f"{least:g} or more" if least else f"less than {above:g}"
        yield _line(name, rows)
    yield _line("any, joined", [vote.is_right for vote in found])
    yield _line("any, one sample", [vote.is_first_right for vote in found])


def _line(name: str, rows: list[bool]) -> str:
    percent = f"{sum(rows) / len(rows):.1%}" if rows else "-"
    return f"{name:<24}{len(rows):>10}{sum(rows):>8}{percent:>9}"


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m training.agreement")
    parser.add_argument("--clips", type=int, default=CLIPS)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    told = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as folder:
        found = list(votes(told.checkpoint, make(Path(folder), told.clips, told.seed)))
    sys.stdout.writelines(f"{line}\n" for line in lines(found))


if __name__ == "__main__":
    main(sys.argv[1:])
