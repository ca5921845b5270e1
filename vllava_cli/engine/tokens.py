"""Turns questions into token ids: tokenises whole prompts, checks that they fit, and drops turns so that they do."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from vllava_cli import prompt
from vllava_cli.choices import checked
from vllava_cli.engine.checkpoint import read_config
from vllava_cli.engine.tokenizer import Tokenizer, read_settings, read_tokenizer
from vllava_cli.errors import CheckpointError, ContextError, UsageError
from vllava_cli.nouns import Checkpoint, Conversation, Frames, MediaKind, Sampling

ChoiceIds = tuple[int, ...]
"""The ids of a choice as an answer."""
MOST_KNOWN = 1024
"""Texts of which the ids are remembered; one with a video of the 7B model takes 30 KB."""
ANSWER_TOKENS = 256
"""The tokens of context that are kept free for an answer; a longer one may still come where there are more."""
_NEUTRAL: dict[str, tuple[object, ...]] = {
    "do_sample": (False,),
    "temperature": (0, 1),
    "top_k": (0, 50),
    "top_p": (1,),
    "min_p": (0,),
    "typical_p": (1,),
    "repetition_penalty": (1,),
    "encoder_repetition_penalty": (1,),
    "no_repeat_ngram_size": (0,),
    "num_beams": (1,),
    "length_penalty": (1,),
    "bad_words_ids": ([],),
    "suppress_tokens": ([],),
    "min_new_tokens": (0,),
    "max_new_tokens": (),
}
"""transformers' settings of sampling, and the values with which they do nothing."""


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """A checkpoint's tokenizer with the ids that have a meaning of their own."""

    checkpoint: Checkpoint
    tokenizer: Tokenizer
    placeholders: Mapping[MediaKind, int]
    """The id of each kind's placeholder, which stands once for each of a medium's tokens: videos first."""
    stop_ids: frozenset[int]
    banned_ids: tuple[int, ...]
    """The ids that an answer may not hold: <video>, <image>, <pad>, and those that no token has."""
    context_tokens: int
    """The limit of a conversation: the checkpoint's context, or the length that the plan has memory for."""
    unobeyed: tuple[str, ...] = ()
    """The checkpoint's own sampling settings, which aren't obeyed: ("repetition_penalty 1.1",)."""
    _known: dict[tuple[str, bool], tuple[int, ...]] = field(default_factory=dict, repr=False, compare=False)

    def prompt_ids(self, conversation: Conversation, question: str) -> list[int]:
        """The ids of the conversation up to and including "ASSISTANT:" of the new question.

        Errors: UsageError for an empty question, ContextError for a prompt that leaves no room for an answer.
        """
        ids = self.unchecked_ids(conversation, question)
        kinds = Counter(medium.kind for medium in conversation.media)
        self._check_placeholders(ids, kinds)
        self._check_length(len(ids), kinds)
        return ids

    def unchecked_ids(self, conversation: Conversation, question: str) -> list[int]:
        """The ids of `prompt_ids`, however long. Errors: UsageError for an empty question."""
        ids = self.finished_ids(conversation)
        media = conversation.attached if ids else conversation.media
        return [*ids, *self._question_ids(question, media, is_first=not ids)]

    def known_ids(self, conversation: Conversation) -> list[int]:
        """The beginning of the next prompt, whatever its question will be: up to the last placeholder that waits."""
        if conversation.attached:
            ids = self.unchecked_ids(conversation, "?")
            return ids[: self.media_end(ids)]
        return self.finished_ids(conversation)

    def finished_ids(self, conversation: Conversation) -> list[int]:
        """The ids of the turns in the window, each answer as the model produced it; no turns → []."""
        ids: list[int] = []
        for number, turn in enumerate(conversation.window):
            dropped = conversation.turns[: conversation.dropped] if number == 0 else []
            media = tuple(medium for early in dropped for medium in early.media) + turn.media
            ids += self._question_ids(turn.question, media, is_first=number == 0)
            ids += turn.answer_ids
        return ids

    def used(self, conversation: Conversation) -> int:
        """The tokens of context that the window and the media that wait for the next question take."""
        ids = self.finished_ids(conversation)
        waiting = conversation.attached if ids else conversation.media
        return len(ids) + sum(self.tokens_of(medium.kind) for medium in waiting)

    def media_starts(self, ids: Sequence[int], media: Sequence[Frames]) -> list[int]:
        """The position of each medium's first placeholder in a prompt that shows `media`."""
        starts: list[int] = []
        position = 0
        for medium in media:
            position = ids.index(self.placeholders[medium.kind], position)
            starts.append(position)
            position += self.tokens_of(medium.kind)
        return starts

    def media_end(self, ids: Sequence[int]) -> int:
        """The position behind the last placeholder of a prompt that has some."""
        return 1 + max(position for position, token in enumerate(ids) if token in self.placeholders.values())

    def tokens_of(self, kind: MediaKind) -> int:
        """The number of tokens of a medium."""
        return self.checkpoint.tokens_per_video if kind == "video" else self.checkpoint.tokens_per_image

    def answer_ids(self, text: str) -> tuple[int, ...]:
        """The ids of an answer that this model didn't give by itself."""
        if not text.strip():
            return ()
        return self._encode(prompt.readable(text, special_tokens=self.tokenizer.special_tokens), has_start=False)

    def option_ids(self, choices: Sequence[str], *, prompt_tokens: int = 0) -> tuple[ChoiceIds, ...]:
        """The ids of each choice as an answer, what stands behind "ASSISTANT:" where the whole string is tokenised.

        That is so for a vocabulary in which a space only begins a token, as Llama's. Errors: UsageError for fewer than
        two choices, for an empty one and for two that are the same; ContextError where one doesn't fit behind a prompt.
        """
        options = tuple(map(self.answer_ids, checked(choices)))
        for place, ids in enumerate(options):
            if ids in options[:place]:
                first, second = choices[options.index(ids)], choices[place]
                raise UsageError(f"The model reads the choices {first!r} and {second!r} alike: leave one out.")
        longest = max(map(len, options))
        if prompt_tokens + longest > self.context_tokens:
            raise ContextError(
                f"The prompt has {prompt_tokens} tokens, the longest of the choices {longest}, and the context holds "
                f"{self.context_tokens}: shorten the choices or the question, or ask about fewer clips."
            )
        return options

    def are_of(self, ids: Sequence[int], answer: str, *, is_cut: bool) -> bool:
        """True if these ids can be kept for an answer: ids of this tokenizer that read so and hold no placeholder.

        Those of an answer that `is_cut` may say more at its end.
        """
        if not self.can_hold(ids):
            return False
        text = self.text_of(list(ids))
        return text.startswith(answer) if is_cut else text == answer

    def can_hold(self, ids: Sequence[int]) -> bool:
        """True if ids may stand in an answer: each is a token's, and none a placeholder, padding or an end."""
        forbidden = {*self.banned_ids, *self.stop_ids}
        return all(0 <= token < len(self.tokenizer) and token not in forbidden for token in ids)

    def text_of(self, ids: list[int]) -> str:
        """The text of an answer's ids, special tokens left out."""
        return self.tokenizer.decode(ids)

    def _question_ids(self, question: str, media: Sequence[Frames], *, is_first: bool) -> tuple[int, ...]:
        text = prompt.readable(question, special_tokens=self.tokenizer.special_tokens)
        counts = self.checkpoint
        whole = prompt.expand(
            prompt.turn(text, [medium.kind for medium in media]),
            tokens_per_video=counts.tokens_per_video,
            tokens_per_image=counts.tokens_per_image,
        )
        return self._encode(whole, has_start=is_first)

    def _encode(self, text: str, *, has_start: bool) -> tuple[int, ...]:
        """Remembers: each turn asks for all earlier ones, and 2056 placeholders take 4 ms."""
        key = (text, has_start)
        if key not in self._known:
            ids = self.tokenizer.encode(text, has_start=has_start)
            if len(self._known) == MOST_KNOWN:
                del self._known[next(iter(self._known))]
            self._known[key] = ids
        return self._known[key]

    def _check_placeholders(self, ids: list[int], kinds: Counter[MediaKind]) -> None:
        found = [ids.count(token) for token in self.placeholders.values()]
        wanted = [kinds[kind] * self.tokens_of(kind) for kind in self.placeholders]
        if found != wanted:
            raise CheckpointError(
                f"The tokenizer of {self.checkpoint.model} made {found[0]} video and {found[1]} image tokens where "
                f"{wanted[0]} and {wanted[1]} are needed: its files are not those of a Video-LLaVA checkpoint."
            )

    def _check_length(self, prompt_tokens: int, kinds: Counter[MediaKind]) -> None:
        context = self.context_tokens
        if prompt_tokens < context:
            return
        counts = ((kind, kinds[kind]) for kind in self.placeholders)
        shares = [(count * self.tokens_of(kind), f"{count:,} {kind}{'s' * (count != 1)}") for kind, count in counts]
        text = prompt_tokens - sum(tokens for tokens, _ in shares)
        shares_text = ", ".join(f"{tokens:,} for {what}" for tokens, what in [*shares, (text, "text")] if tokens)
        remedy = "ask about fewer clips, or shorten the question" if kinds.total() > 1 else "shorten the question"
        raise ContextError(
            f"The prompt has {prompt_tokens:,} tokens ({shares_text}), and the context holds {context:,}: {remedy}."
        )


def read_tokens(checkpoint: Checkpoint) -> Tokens:
    """The checkpoint's tokens. Errors: CheckpointError where the files can't be used."""
    config = read_config(checkpoint.folder)
    tokenizer = read_tokenizer(checkpoint.folder)
    generation = read_settings(checkpoint.folder / "generation_config.json")
    stop_ids = _ids(generation.get("eos_token_id")) or _ids(tokenizer.id_of(tokenizer.eos_token))
    media_ids = _ids([config.video_token_id, config.image_token_id])
    rows = config.text_config.vocab_size
    banned_ids = tokenizer.rows_without_token(rows) | media_ids | _ids(tokenizer.id_of(tokenizer.pad_token))
    return Tokens(
        checkpoint=checkpoint,
        tokenizer=tokenizer,
        placeholders={"video": config.video_token_id, "image": config.image_token_id},
        stop_ids=stop_ids,
        banned_ids=tuple(token for token in sorted(banned_ids - stop_ids) if token < rows),
        context_tokens=checkpoint.context_tokens,
        unobeyed=unobeyed(generation),
    )


def digest_of(ids: Sequence[int]) -> str:
    """The SHA-256 of ids as decimal numbers with commas between them: [1, 2] → that of "1,2"."""
    return hashlib.sha256(",".join(map(str, ids)).encode()).hexdigest()


def unobeyed(generation: Mapping[str, Any]) -> tuple[str, ...]:
    """The sampling settings of a generation_config.json that this tool doesn't take over.

    {"eos_token_id": 2, "repetition_penalty": 1.1, "top_k": 50} → ("repetition_penalty 1.1",)
    """
    return tuple(
        f"{name} {value}"
        for name, value in sorted(generation.items())
        if name in _NEUTRAL and value is not None and value not in _NEUTRAL[name]
    )


def _ids(value: Any) -> frozenset[int]:
    """2 → {2}, [2, 3] → {2, 3}, None → {}; what is no number is left out."""
    return frozenset(each for each in (value if isinstance(value, list) else [value]) if isinstance(each, int))


def dropped(tokens: Tokens, conversation: Conversation, question: str, sampling: Sampling) -> int:
    """Counts the oldest turns that must be dropped so that a question and its answer fit. Errors: UsageError.

    The media stay. As what remains must be prefilled again behind them, enough turns go to leave a quarter of the
    text's context free, so that this is rare; but the last turn goes only for the question itself.
    """
    left = tokens.context_tokens - sum(tokens.tokens_of(medium.kind) for medium in conversation.media)
    spare = left // 4
    most = tokens.context_tokens - min(_longest_answer(tokens, sampling), max(1, spare))
    gone = range(conversation.dropped, len(conversation.turns) + 1)
    lengths: list[int] = []
    for number in gone:
        lengths.append(len(tokens.unchecked_ids(replace(conversation, dropped=number), question)))
        if lengths[0] <= most:
            return number
    if lengths[-1] >= tokens.context_tokens:
        return conversation.dropped  # nothing would help: the question itself is refused
    roomy = (number for number, length in zip(gone[:-1], lengths, strict=False) if length <= most - spare)
    tight = (number for number, length in zip(gone, lengths, strict=True) if length <= most)
    return next(roomy, next(tight, gone[-1]))


def _longest_answer(tokens: Tokens, sampling: Sampling) -> int:
    if sampling.choices:
        return max(map(len, tokens.option_ids(sampling.choices)))
    return min(sampling.max_new_tokens, ANSWER_TOKENS)
