"""`--summary`: one more question, about the texts of the windows alone; the model sees no frame for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vllava_cli.answers import Conversation, Sampling, Turn
from vllava_cli.batch.jobs import Job
from vllava_cli.batch.output import Output
from vllava_cli.batch.request import Destination
from vllava_cli.commands.provenance import seeded
from vllava_cli.cues.cue import Cue, CueMaker
from vllava_cli.interrupt import Cancel
from vllava_cli.nouns import counted
from vllava_cli.screen import Screen
from vllava_cli.storage.files import atomic_write
from vllava_cli.storage.jsonl import json_of
from vllava_cli.times import span

if TYPE_CHECKING:
    from vllava_cli.engine.answering import AnswerEngine
    from vllava_cli.engine.tokens import Tokens

_INTRODUCTION = "These texts say what was seen in the parts of a video, in the order of time:"


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A question about the texts of a run's windows, and where its answer goes."""

    question: str
    sampling: Sampling
    destination: Destination
    screen: Screen

    def sum_up(
        self,
        jobs: Sequence[Job],
        out: Output,
        loaded: Callable[[], AnswerEngine],
        is_interrupted: Callable[[], bool],
    ) -> bool:
        """Asks, and shows the answer on stdout, and as the last row of JSON lines; returns False after Ctrl-C.

        Errors: any VllavaError.
        """
        cues = merged_cues(out.in_order(jobs), is_merging=self.destination.is_merging)
        if not cues:
            self.screen.notice("vllava: no window has a text, so there is nothing to sum up.")
            return True
        engine, began_s = loaded(), time.perf_counter()
        asked, left_out = fitted(self.question, cues, engine.tokens, self.sampling)
        if left_out:
            what = f"{left_out:,} of {counted(len(cues), 'text')}"
            context = f"the model's context holds {engine.tokens.context_tokens:,} tokens"
            self.screen.notice(f"vllava: {what} left out of the summary: {context}.")
        conversation = Conversation()
        with self.screen.waiting("Summing up"):
            for _ in engine.stream(conversation, asked, seeded(self.sampling), cancel=Cancel(is_interrupted)):
                pass
        turn = conversation.turns[-1]
        self._show(turn, out, texts=len(cues) - left_out, left_out=left_out, seconds=time.perf_counter() - began_s)
        return turn.stop_reason != "interrupted"

    def _show(self, turn: Turn, out: Output, *, texts: int, left_out: int, seconds: float) -> None:
        row = {
            "of": "texts",
            "question": self.question,
            "answer": turn.answer,
            "stop_reason": turn.stop_reason,
            "texts": texts,
            "left_out": left_out,
            "model": out.info.model,
            "revision": out.info.revision,
            "seconds": round(seconds, 4),
        }
        path, has_rows = self.destination.path, self.destination.format == "jsonl"
        if path and has_rows:
            atomic_write(path, (path.read_bytes(), json_of(row).encode(), b"\n"))
        if has_rows and not path:
            self.screen.answer(json_of(row) + "\n")
        else:
            begin, texts_are = ("", "of the texts") if path else ("\n", "of the texts above")
            self.screen.answer(f"{begin}Summary ({texts_are}, not of the video): {turn.answer.strip()}\n")


def merged_cues(rows: Iterable[Mapping[str, Any]], *, is_merging: bool) -> list[Cue]:
    maker = CueMaker(is_merging=is_merging)
    return [cue for cue in (*map(maker.add, rows), maker.end()) if cue]


def fitted(question: str, cues: Sequence[Cue], tokens: Tokens, sampling: Sampling) -> tuple[str, int]:
    """Returns the question with the texts, and how many were left out so that it and its answer fit.

    Those that stay are evenly spread. At least one stays; the engine refuses the question if that is too long.
    """
    from vllava_cli.engine.tokens import ANSWER_TOKENS

    room = tokens.context_tokens - min(sampling.max_new_tokens, ANSWER_TOKENS)
    fewest, most = 1, len(cues)
    while fewest < most:
        middle = (fewest + most + 1) // 2
        if len(tokens.unchecked_ids(Conversation(), written(question, spread(cues, middle)))) <= room:
            fewest = middle
        else:
            most = middle - 1
    return written(question, spread(cues, fewest)), len(cues) - fewest


def spread(cues: Sequence[Cue], count: int) -> list[Cue]:
    """Returns so many of the cues, evenly spread, the first among them."""
    return [cues[number * len(cues) // count] for number in range(count)]


def written(question: str, cues: Iterable[Cue]) -> str:
    """Writes the question with the texts before it, each on a line of its own with its times."""
    lines = (f"{span(cue.start_s, cue.end_s)}: {' '.join(cue.text.split())}" for cue in cues)
    return "\n".join((_INTRODUCTION, *lines, question))
