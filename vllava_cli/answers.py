"""Questions and their answers, as dataclasses like those of `nouns`; only `Conversation` changes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from vllava_cli.nouns import WHITE, Fit, Frames, Framing

MOST_SAMPLES = 16
"""How often one clip is sampled at most, each time at other positions."""
StopReason = Literal["end", "length", "context", "repetition", "interrupted", "choice", "unsure"]
"""end: the model ended its answer · length: --max-new-tokens · context: the model's context is full ·
repetition: the guard saw a loop · interrupted: Ctrl-C · choice: the likeliest of --choices was taken ·
unsure: fewer samples agreed than --min-agree asks for, so that there is no answer."""


@dataclass(frozen=True, kw_only=True)
class Agreeing:
    """How often a clip is sampled, and how many of its samples must agree on an answer."""

    samples: int
    """From 2 to MOST_SAMPLES."""
    least_share: float = 0.0
    """If a smaller share of the samples agrees, there is no answer."""

    def shifts(self, framing: Framing) -> tuple[float, ...]:
        """Returns the shift of each sample, 0 first; frames at named times can't be shifted, so that there is one."""
        return tuple(number / self.samples for number in range(1 if framing.at_s else self.samples))


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """The settings by which tokens are chosen; temperature 0 is greedy."""

    max_new_tokens: int = 512
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    has_guard: bool = True
    """Stop when the answer repeats itself."""
    choices: tuple[str, ...] = ()
    """The answer is the likeliest of these; nothing is decoded then, and the fields above don't matter."""
    is_calibrated: bool = False
    """True where the log-likelihoods that a blank clip gives are subtracted from the choices'."""
    blank_choice: str = ""
    """The choice that is right about a blank clip; calibrating then only subtracts what others have above it there."""


@dataclass(frozen=True, kw_only=True)
class Stats:
    """The figures of one answer: counts in tokens, times in seconds, memory in bytes."""

    prompt_tokens: int
    reused_tokens: int
    """The tokens of the prompt that the KV cache held already."""
    new_tokens: int
    """All tokens that the model produced, stray ones too."""
    stray_tokens: int = 0
    """The stray "Ъ" that were left out of the answer."""
    tower_calls: int = 0
    """The clips that went through a vision tower for this answer."""
    first_token_s: float
    """The time from the call to the first token: pixels, towers and prefill."""
    decode_s: float
    """The time from the first token to the last."""
    frames_s: float = 0.0
    load_s: float = 0.0
    peak_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One question with the media that came with it, and the model's answer."""

    question: str
    answer: str
    answer_ids: tuple[int, ...]
    """The model's own ids: an answer is never tokenised again."""
    media: tuple[Frames, ...] = ()
    stop_reason: StopReason
    sampling: Sampling
    stats: Stats
    probabilities: tuple[float, ...] = ()
    """The probability of each of the sampling's choices, in their order; they add up to 1."""
    prompt_sha256: str = field(default="", compare=False)
    """The hash of the prompt's token ids as decimal numbers with commas, printf 1,2,3 | sha256sum; "" for a turn
    that was read from a file."""

    @property
    def wait(self) -> str:
        """Names what `first_token_s` was spent on: "first token", or "reading" if Ctrl-C came before that."""
        is_early = self.stop_reason == "interrupted" and not self.stats.new_tokens
        return "reading" if is_early else "first token"


@dataclass(kw_only=True)
class Conversation:
    """The turns and media of a conversation; the only value of this module that changes."""

    attached: tuple[Frames, ...] = ()
    """The media that come with the next question."""
    fit: Fit = "crop"
    background: str = WHITE
    """The background of clips that are attached later."""
    turns: list[Turn] = field(default_factory=list)
    dropped: int = 0
    """The oldest turns that are no longer part of the prompt; their media stand before its first turn."""

    @property
    def media(self) -> tuple[Frames, ...]:
        """All media, in the order in which the prompt shows them."""
        return tuple(medium for turn in self.turns for medium in turn.media) + self.attached

    @property
    def window(self) -> tuple[Turn, ...]:
        """The turns that are part of the prompt."""
        return tuple(self.turns[self.dropped :])

    def cut(self, kept: int) -> None:
        """Removes the turns after the first `kept`; the media of the first removed turn are attached again."""
        if kept >= len(self.turns):
            return
        self.attached = self.turns[kept].media + self.attached
        del self.turns[kept:]
        if self.dropped >= kept:
            self.dropped = 0


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How the answers about the samples of a clip agree. A sample that shows the same frames as another isn't counted.

    If there was only one sample to count, nothing can agree, and `reason` says why.
    """

    share: float = 1.0
    """The share of the samples that gave the answer."""
    answers: tuple[str, ...]
    """The answer to each sample, in the order of their shifts."""
    times_s: tuple[tuple[float, ...], ...]
    """The times of the frames of each sample."""
    reason: str = ""

    @property
    def text(self) -> str:
        """Returns "4 of 5 agree"."""
        return f"{round(self.share * len(self.answers))} of {len(self.answers)} agree"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An answer of a batch, which belongs to no conversation."""

    text: str
    stop_reason: StopReason
    stats: Stats
    probabilities: tuple[float, ...] = ()
    """The same as in `Turn`."""
    ids: tuple[int, ...] = ()
    """The ids of the text, without stray ones."""
    prompt_sha256: str = ""
    """The same as in `Turn`."""
    agreement: Agreement | None = None
    """Set where the clip was sampled several times."""

    def turn(self, question: str, media: tuple[Frames, ...], sampling: Sampling) -> Turn:
        """Returns the turn of a conversation in which this is the answer."""
        return Turn(
            question=question,
            answer=self.text,
            answer_ids=self.ids,
            media=media,
            stop_reason=self.stop_reason,
            sampling=sampling,
            stats=self.stats,
            probabilities=self.probabilities,
            prompt_sha256=self.prompt_sha256,
        )
