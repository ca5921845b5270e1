"""Collects the answers about the samples of a clip, and joins them to one result for each question."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllava_cli.answers import Agreeing
    from vllava_cli.batch.executors.local import AnswerKey
    from vllava_cli.engine.answering import AnswerResult
    from vllava_cli.media.fingerprint import Fingerprint
    from vllava_cli.nouns import Frames


@dataclass(kw_only=True, eq=False)
class ClipSamples:
    """The samples of one clip: how many weren't read yet, and what was answered about those that differ.

    Without --agree a clip has one sample.
    """

    unread: int
    has_failed: bool = False
    """Whether a sample couldn't be read, so that all jobs about the clip have an error."""
    hashed: Future[Fingerprint] | None = None
    _shifts: dict[tuple[float, ...], float] = field(default_factory=dict)
    """The least shift of the samples that show the frames at these times."""
    _remarks: set[str] = field(default_factory=set)
    _results: dict[str, list[AnswerResult[AnswerKey]]] = field(default_factory=dict)
    """The results for each question, by the id of the first job that asks it."""

    def take(self, frames: Frames, shift: float) -> bool:
        """Notes the frames of a sample; returns False if another sample shows the same: it needn't be asked about."""
        least = self._shifts.get(frames.times_s)
        self._shifts[frames.times_s] = shift if least is None else min(shift, least)
        return least is None

    def new_remarks(self, frames: Frames) -> list[str]:
        """Returns the remarks about a clip that no other sample of it had."""
        found = [text for text in frames.clip.remarks if text not in self._remarks]
        self._remarks.update(found)
        return found

    def add(self, result: AnswerResult[AnswerKey]) -> None:
        self._results.setdefault(result.key.jobs[0].id, []).append(result)

    def joined(self, wanted: Agreeing | None) -> Iterator[AnswerResult[AnswerKey]]:
        """Yields one result for each question that all samples were asked; each question once."""
        for id, results in tuple(self._results.items()):
            if not self.unread and not self.has_failed and len(results) == len(self._shifts):
                del self._results[id]
                yield self._join(results, wanted)

    def _join(self, results: list[AnswerResult[AnswerKey]], wanted: Agreeing | None) -> AnswerResult[AnswerKey]:
        results.sort(key=lambda result: self._shifts[result.key.sampled_s])
        shown = next((result for result in results if result.fault), results[0])
        sampling = shown.key.sampling
        if wanted and sampling and not shown.fault:
            from vllava_cli.engine.agreement import agreed

            kind = "image" if shown.key.times_s is None else "video"
            answers = [result.answer for result in results if result.answer]
            times_s = [result.key.sampled_s for result in results]
            number, answer = agreed(answers, times_s, wanted, sampling, kind=kind)
            shown = replace(results[number], answer=answer, seconds=max(result.seconds for result in results))
        return replace(shown, key=self._final(shown.key))

    def _final(self, key: AnswerKey) -> AnswerKey:
        """Returns the key of a joined result; equal samples are known by the least shift, whichever was asked about."""
        if key.clip is None:
            return replace(key, samples=None)
        framing = replace(key.clip.framing, shift=self._shifts[key.sampled_s])
        return replace(key, samples=None, clip=replace(key.clip, framing=framing))
