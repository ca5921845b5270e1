"""What this tool does for the same question, measured through what its commands run: the stream and the batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from vllava_cli.engine.batch import AnswerRequest, AnswerResult, BatchScheduler, rows_that_fit
from vllava_cli.engine.cancel import Cancel, CancelError
from vllava_cli.engine.generate import Engine
from vllava_cli.engine.measuring.asked import LEAST_TOKENS, Asked
from vllava_cli.engine.measuring.clock import seconds_of
from vllava_cli.errors import MemoryShortError
from vllava_cli.nouns import Answer, Conversation, Frames, Turn

ENDINGS = ("", " Why?", " What comes first?", " Tell me more about it.")
"""Behind the questions of a batch, whose rows are padded to the longest as those of a user are."""
SHORTEST_S = 1e-6


@dataclass(frozen=True, kw_only=True)
class Ours:
    """A loaded engine whose answers nothing ends too early: the ids that would are unset in its tokens."""

    engine: Engine
    is_interrupted: Callable[[], bool]

    @property
    def device(self) -> str:
        return self.engine.plan.device

    def forget(self) -> None:
        """The next question finds nothing of an earlier one, neither prompt nor clip."""
        self.engine.prompt_cache = None
        self.engine.vision.forget()

    def vision_s(self, asked: Asked) -> float:
        self.engine.vision.forget()
        return seconds_of(lambda: self.engine.vision.features(asked.frames, "crop"), self.device)

    def prefill_s(self, asked: Asked) -> float:
        """Of the whole prompt, when the clip was looked at already."""
        self.engine.vision.features(asked.frames, "crop")
        self.engine.prompt_cache = None
        shown = asked.prompt
        return seconds_of(lambda: self.engine.read(shown, cancel=Cancel(self.is_interrupted)), self.device)

    def first_token_s(self, asked: Asked) -> float:
        """From frames that are decoded to the first token."""
        self.forget()
        return seconds_of(lambda: self.answer(asked, new_tokens=1), self.device)

    def turn(self, asked: Asked) -> Turn:
        """A short answer in a conversation of its own, as the turn that it becomes; the cache holds it then."""
        conversation = asked.conversation
        self._answer_in(conversation, asked, LEAST_TOKENS)
        return conversation.turns[-1]

    def second_turn_s(self, asked: Asked) -> float:
        """From a second question to its first token, of a conversation whose first turn was just answered."""
        again = asked.following((self.turn(asked),))
        return seconds_of(lambda: self.answer(again, new_tokens=1), self.device)

    def answer(self, asked: Asked, *, new_tokens: int | None = None) -> Answer:
        """A whole answer in a conversation of its own."""
        return self._answer_in(asked.conversation, asked, new_tokens)

    def answer_ids(self, asked: Asked) -> tuple[int, ...]:
        """The ids of a whole answer to a question that was never asked."""
        self.forget()
        conversation = asked.conversation
        self._answer_in(conversation, asked, None)
        return conversation.turns[-1].answer_ids

    def decode_tokens_per_s(self, asked: Asked, *, rows: int) -> float:
        """Of all rows together, from their first tokens to their last. Errors: MemoryShortError, ContextError."""
        if rows == 1:
            stats = self.answer(asked).stats
            return (stats.new_tokens - 1) / max(stats.decode_s, SHORTEST_S)
        self.engine.prompt_cache = None
        questions = [asked.question + ENDINGS[row % len(ENDINGS)] for row in range(rows)]
        finished = self._batch(asked, [(asked.frames, question) for question in questions], rows)
        stats_of_all = [each.answer.stats for each in finished if each.answer]
        decoded = sum(stats.new_tokens - 1 for stats in stats_of_all)
        return decoded / max([SHORTEST_S, *(stats.decode_s for stats in stats_of_all)])

    def clips_per_s(self, asked: Asked, *, clips: int) -> float:
        """Of so many clips with a question each, in batches as large as `vllava batch` would make them."""
        self.forget()
        # Equal frames are the same clip to the engine only where they are the same object.
        jobs = [(replace(asked.frames), asked.question) for _ in range(clips)]
        most_rows = rows_that_fit(self.engine, asked.sampling(), question_characters=len(asked.question))
        return clips / seconds_of(lambda: self._batch(asked, jobs, min(clips, most_rows)), self.device)

    @torch.inference_mode()
    def logits(self, asked: Asked, new_ids: list[int]) -> torch.Tensor:
        """[len(new_ids), vocabulary]: what is said before each of these ids, as they are decoded one by one."""
        self.forget()
        try:
            found = [self.engine.read(asked.prompt, cancel=Cancel(self.is_interrupted))]
        except CancelError:
            raise KeyboardInterrupt from None
        cache = self.engine.prompt_cache
        if cache is None:
            raise RuntimeError("a prompt that was read left no cache")
        for token in new_ids[:-1]:
            fed = torch.tensor([token], device=found[0].device)
            # They are good until the next step.
            found.append(self.engine.step(fed, len(cache.ids)).clone())
            cache.ids.append(token)
        cache.cache.hold(len(cache.ids))
        return torch.stack(found)

    def _answer_in(self, conversation: Conversation, asked: Asked, new_tokens: int | None) -> Answer:
        sampling, cancel = asked.sampling(new_tokens), Cancel(self.is_interrupted)
        return Answer.of(self.engine.stream(conversation, asked.question, sampling, cancel=cancel))

    def _batch(self, asked: Asked, jobs: Sequence[tuple[Frames, str]], most_rows: int) -> list[AnswerResult[int]]:
        queries = [
            AnswerRequest(key=key, medium=frames, question=question) for key, (frames, question) in enumerate(jobs)
        ]
        given = iter([queries])
        batching: BatchScheduler[int] = BatchScheduler(
            engine=self.engine,
            sampling=asked.sampling(),
            fit="crop",
            most_rows=most_rows,
            cancel=Cancel(self.is_interrupted),
            on_shortage=_refuse,
        )
        finished = list(batching.answers(lambda _most, *, is_waiting: next(given, None)))  # noqa: ARG005
        for each in finished:
            if each.fault:
                raise each.fault
        return finished


def _refuse(rows: int) -> None:
    """Fewer rows would be another measurement."""
    raise MemoryShortError(f"The memory ran out: there is room for {rows} rows at once, so ask for fewer of them.")
