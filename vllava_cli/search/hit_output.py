"""The output of a search: keeps answers, and prints the hits in the order of files and time, as soon as it can."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllava_cli import __version__
from vllava_cli.batch.jobs import ClipJobs, Job
from vllava_cli.batch.output import Output
from vllava_cli.batch.request import Destination
from vllava_cli.batch.rows import RunInfo
from vllava_cli.errors import quoted
from vllava_cli.media.fingerprint import SampledDigest
from vllava_cli.nouns import Window, counted
from vllava_cli.screen import Screen, one_line
from vllava_cli.search.answer_store import AnswerStore, key_of
from vllava_cli.search.extracts import HitTaker
from vllava_cli.search.hits import Hit
from vllava_cli.search.query import SearchRequest, questions_of
from vllava_cli.search.said import Said
from vllava_cli.storage.jsonl import line_of, portable

STILL = "{windows} {are} still: each has the answer of the one before it, and --no-skip-still asks about each."


@dataclass(kw_only=True, eq=False)
class Look:
    """A window of a file, or an image, and a job for each question about it."""

    jobs: list[Job]
    left: int
    """How many of the jobs have no answer yet."""
    file: int
    """The number of the file; a path that was given twice counts twice."""
    leader: Look | None = None
    """The window before a still one, which has the same answer."""
    is_last: bool = False
    """Whether it is the last one of its file."""
    said: frozenset[str] = frozenset()
    """The queries that are said in it."""
    is_settled: bool = False
    """Whether its hits are known without the model."""


@dataclass(frozen=True, kw_only=True)
class KeptAnswer:
    """An answer that is kept: the probabilities of "yes" and "no", and the times of the frames that the model saw."""

    probabilities: tuple[float, float]
    frame_times_s: tuple[float, ...] | None
    precision: str

    @property
    def score(self) -> float:
        return self.probabilities[0]

    @classmethod
    def of(cls, value: Any) -> KeptAnswer | None:
        """Reads a row or a value of the store; None if it isn't a whole answer."""
        try:
            yes, no = map(float, value["probabilities"])
            times_s = value["frame_times_s"]
            times = None if times_s is None else tuple(map(float, times_s))
            return cls(probabilities=(yes, no), frame_times_s=times, precision=str(value["precision"]))
        except (TypeError, ValueError, KeyError):
            return None


class HitOutput(Output):
    """Takes the rows of a batch, and tells what is in them in the search's manner.

    Rows come in any order. A hit is printed once all windows before it are known, so that the output is the same each
    time; with -q nothing is printed, and the first hit that comes ends the search.
    """

    is_kept = False
    tells_errors = True

    def __init__(
        self,
        search: SearchRequest,
        info: RunInfo,
        screen: Screen,
        *,
        store: AnswerStore,
        digests: Mapping[str, SampledDigest],
        model_state: object = None,
        takers: Sequence[HitTaker] = (),
        said: Said | None = None,
    ) -> None:
        """`takers` write files of hits. They are told of all windows in order, up to the first without an answer."""
        super().__init__(Destination(), info, screen)
        self.manner, self.hits = search.manner, list[Hit]()
        """`hits` are all that were found, in the order of files and time."""
        self.has_trouble = False
        self._store, self._digests = store, digests
        self._questions = {query: questions_of(query) for query in search.queries}
        self._origin = [__version__, info.signature, search.wishes.device, model_state]
        """All that answers follow from, besides the window and the question."""
        self._looks: list[Look] = []
        self._places: dict[str, tuple[Look, Job]] = {}
        """The look and the job of each id."""
        self._answers: dict[str, KeptAnswer | None] = {}
        """The answers that are known, by the id of the job; None for an error."""
        self._next = 0
        """The first look that hasn't been told yet."""
        self._found: Counter[int] = Counter()
        """The hits of each file that were told."""
        self._full: set[int] = set()
        """The files that have as many hits as are wanted."""
        self._judged: set[int] = set()
        self._unknown: set[int] = set()
        """The files that have windows without an answer when the search ends."""
        self._waiting: list[Hit] = []
        """Hits that are printed at the end, sorted."""
        self._told: set[str] = set()
        """The errors that were told: a file has the same one for each window."""
        self._takers, self._said = takers, said
        is_asked = not self.manner.is_text_only
        self._facts = {"model": info.model if is_asked else None, "revision": info.revision if is_asked else None}

    def prepare(self, jobs: Sequence[Job], every: Sequence[Job], *, is_dry: bool) -> None:  # noqa: ARG002
        """Learns which answers are kept, and prints the hits among the first of them."""
        self._looks = looks_of(jobs, skips_still=self.manner.skips_still)
        self._places = {job.id: (look, job) for look in self._looks for job in look.jobs}
        still = sum(look.leader is not None for look in self._looks) * (not self.manner.is_text_only)
        if still:
            are = "is" if still == 1 else "are"
            self.screen.notice(f"vllava: {STILL.format(windows=counted(still, 'window'), are=are)}")
        self._settle()
        for look in self._looks if self._store.is_open else ():
            for job in look.jobs if not look.leader else ():
                if (key := self._key(job)) and (answer := KeptAnswer.of(self._store.find(key))):
                    self._note(look, job, answer)
        for look in self._looks if self.manner.is_silent else ():
            self._judge_early(look)
        self._advance()

    def is_done(self, job: Job) -> bool:
        look, _ = self._places[job.id]
        is_known = look.is_settled or look.leader is not None or job.id in self._answers
        return self.is_full or is_known or look.file in self._full

    def is_wanted(self, clip: ClipJobs) -> bool:
        return not self.is_full and any(self._places[job.id][0].file not in self._full for job in clip.jobs)

    def put(self, row: Mapping[str, Any]) -> None:
        look, job = self._places[row["id"]]
        answer = None
        if row["error"]:
            self._tell_error(job, row["error"]["message"])
        else:
            answer = KeptAnswer.of({**row, "probabilities": tuple((row["probabilities"] or {}).values())})
            if answer is None:  # the search ended while it was computed
                return
            if key := self._key(job):
                self._store.put(key, vars(answer))
        self._note(look, job, answer)
        if self.manner.is_silent:
            self._judge_early(look)
        self._advance()

    def flush(self) -> None:
        self._store.flush()

    def finish(self, jobs: Sequence[Job]) -> None:  # noqa: ARG002
        """Prints what is known behind windows that have no answer, and hits that are to be sorted."""
        self._advance(is_final=True)
        for hit in sorted(self._waiting, key=lambda hit: -hit.score):
            self._say(hit.line, hit.row(self._facts))
        for taker in () if self._unknown else self._takers:
            taker.finish()
            self.has_trouble |= taker.has_trouble

    def close(self) -> None:
        self._store.flush()

    def _key(self, job: Job) -> bytes | None:
        """Returns the key of a job's answer; None if its clip can't be told from others or has changed."""
        digest, window = self._digests.get(job.path), job.window
        if digest is None or (digest.size, digest.mtime_ns) != (job.size, job.mtime_ns):
            return None
        span = [window.start_s, window.end_s, window.is_held] if window else None
        return key_of("answer", *self._origin, digest.sha256, span, job.question)

    def _advance(self, *, is_final: bool = False) -> None:
        """Tells the looks that are known, in their order, up to the first that isn't."""
        while self._next < len(self._looks) and not self.is_full:
            look = self._looks[self._next]
            is_open = look.file not in self._full
            if is_open and not self._is_known(look):
                if not is_final:
                    return
                self._unknown.add(look.file)
            elif is_open:
                self._judge(look)
            self._next += 1
            if look.is_last:
                self._end_file(look)

    def _note(self, look: Look, job: Job, answer: KeptAnswer | None) -> None:
        look.left -= job.id not in self._answers
        self._answers[job.id] = answer

    def _settle(self) -> None:
        """Looks for the queries in what is said. The model isn't asked about a window in which all of them are."""
        for look in self._looks if self._said else ():
            if self._said:
                look.said = self._said.queries_in(look.jobs[0].path, look.jobs[0].window)
            look.is_settled = self.manner.is_text_only or look.said.issuperset(self._questions)
            if look.leader and look.leader.is_settled and not look.is_settled:
                look.leader = None

    def _is_known(self, look: Look) -> bool:
        return look.is_settled or not (look.leader or look).left

    def _judge_early(self, look: Look) -> None:
        if not self.is_full and self._is_known(look):
            self._judge(look)

    def _judge(self, look: Look) -> None:
        """Decides whether a look has hits, and prints them."""
        hits, manner = self._hits(look), self.manner
        if not hits:
            return
        self._judged.add(look.file)
        wanted = [hit for hit in hits if manner.is_wanted(hit.score)]
        best = max(wanted or hits, key=lambda hit: hit.score)  # a part is cut once, whichever query found it
        for taker in () if self._unknown else self._takers:
            taker.look(best, is_hit=bool(wanted))
        for hit in hits if manner.form == "hits" else ():
            if hit in wanted or hit.kind == "unsure":
                self._print(hit)
        if wanted:
            self.hits += wanted
            self._found[look.file] += 1
            if manner.form == "names":
                self._print_name(look.jobs[0].path)
            if self._found[look.file] == manner.limit:
                self._full.add(look.file)
            self.is_full = manner.is_first_only or manner.is_silent

    def _hits(self, look: Look) -> list[Hit]:
        """Makes a hit of each query, whatever its score; none if a question has no answer.

        With --all and with -v there is one: of the query that decides about the whole window.
        """
        answers = {job.question: self._answers.get(job.id) for job in (look.leader or look).jobs}
        known = {question: answer for question, answer in answers.items() if answer}
        if len(known) < len(answers) and not look.is_settled:
            return []
        hits = [self._hit(look, query, known) for query in self._questions]
        if self.manner.needs_all or self.manner.is_inverted:
            decide = min if self.manner.needs_all else max
            return [decide(hits, key=lambda hit: hit.score)]
        return hits

    def _hit(self, look: Look, query: str, answers: Mapping[str, KeptAnswer]) -> Hit:
        """Makes the hit of a query: of its questions, the one to which yes is least likely decides."""
        job = look.jobs[0]
        if query in look.said or self.manner.is_text_only:
            score = float(query in look.said)
            kind = self.manner.class_of(score)
            return Hit(
                path=job.path,
                window=job.window,
                query=query,
                question=query,
                score=score,
                probabilities=None,
                frame_times_s=None,
                kind=kind,
                precision=None,
                place="text",
                has_rivals=len(self._questions) > 1,
            )
        question = min(self._questions[query], key=lambda each: answers[each].score)
        answer = answers[question]
        return Hit(
            path=job.path,
            window=job.window,
            query=query,
            question=question,
            score=answer.score,
            probabilities=answer.probabilities,
            frame_times_s=answer.frame_times_s,
            kind=self.manner.class_of(answer.score),
            precision=answer.precision,
            is_still=look.leader is not None,
            has_rivals=len(self._questions) > 1,
        )

    def _print(self, hit: Hit) -> None:
        if self.manner.order == "score":
            self._waiting.append(hit)
        else:
            self._say(hit.line, hit.row(self._facts))

    def _print_name(self, path: str) -> None:
        if self.manner.is_null and not self.manner.is_json:
            self._say(path, {}, end="\0")
        else:
            self._say(path, {"path": path})

    def _end_file(self, look: Look) -> None:
        """Prints the count of a file, unless it isn't known."""
        if self.manner.form == "counts" and look.file in self._judged - self._unknown:
            path, count = look.jobs[0].path, self._found[look.file]
            self._say(f"{path}:{count}", {"path": path, "count": count})

    def _say(self, line: str, row: Mapping[str, Any], *, end: str = "\n") -> None:
        if self.manner.is_silent:
            return
        if self.manner.is_json:
            self.screen.answer(line_of(portable(row)).decode())
        else:
            self.screen.answer((one_line(line) if self.screen.is_terminal else line) + end)

    def _tell_error(self, job: Job, message: str) -> None:
        """Says once what is wrong with a file; a message that doesn't name it gets its name."""
        self.has_trouble = True
        name = quoted(Path(job.path))
        text = message if name in message else f"{name}: {message}"
        if not self.manner.is_mute and text not in self._told:
            self._told.add(text)
            self.screen.error(text)


def looks_of(jobs: Sequence[Job], *, skips_still: bool) -> list[Look]:
    """Groups jobs by window, in the order of files and time; a still window gets the one before it as its leader."""
    groups: dict[tuple[str, int, Window | None], list[Job]] = {}
    for job in jobs:
        groups.setdefault((job.path, job.repeat, job.window), []).append(job)
    numbers: dict[tuple[str, int], int] = {}
    looks: list[Look] = []
    for (path, repeat, window), its in groups.items():
        look = Look(jobs=its, left=len(its), file=numbers.setdefault((path, repeat), len(numbers)))
        before = looks[-1] if looks and looks[-1].file == look.file else None
        if before and window and window.is_still and skips_still:
            look.leader = before.leader or before
        if looks and not before:
            looks[-1].is_last = True
        looks.append(look)
    if looks:
        looks[-1].is_last = True
    return looks
