"""From questions to token ids and back: tokenises whole prompts, checks that they fit, decodes answers as they grow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vllava_cli import prompt
from vllava_cli.choices import checked
from vllava_cli.engine.checkpoint import read_config
from vllava_cli.engine.repetition import stray_start
from vllava_cli.errors import CheckpointError, ContextError, UsageError
from vllava_cli.nouns import Checkpoint, Conversation, Frames, MediaKind

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MOST_KNOWN = 1024
"""Texts of which the ids are remembered; one with a video of the 7B model takes 30 KB."""
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """A checkpoint's tokenizer with the ids that have a meaning of their own."""

    checkpoint: Checkpoint
    tokenizer: PreTrainedTokenizerBase
    video_id: int
    image_id: int
    stop_ids: frozenset[int]
    banned_ids: tuple[int, ...]
    """<video>, <image> and <pad>: ids that an answer may not hold."""
    context_tokens: int
    """What a conversation may hold: the checkpoint's context, or what the plan has memory for."""
    _known: dict[tuple[str, bool], tuple[int, ...]] = field(default_factory=dict, repr=False, compare=False)

    def prompt_ids(self, conversation: Conversation, question: str) -> list[int]:
        """The ids of the conversation up to and including "ASSISTANT:" of the new question.

        Errors: UsageError for an empty question, ContextError for a prompt that leaves no room for an answer.
        """
        ids = self.unchecked_ids(conversation, question)
        kinds = Counter(medium.kind for medium in conversation.media)
        self._check_placeholders(ids, kinds)
        self._check_room(len(ids), kinds)
        return ids

    def unchecked_ids(self, conversation: Conversation, question: str) -> list[int]:
        """What `prompt_ids` gives, however long. Errors: UsageError for an empty question."""
        ids = self.finished_ids(conversation)
        media = conversation.attached if ids else conversation.media
        return [*ids, *self._question_ids(question, media, is_first=not ids)]

    def known_ids(self, conversation: Conversation) -> list[int]:
        """The beginning of the next prompt, whatever its question will be: up to the last placeholder that waits."""
        if conversation.attached:
            ids = self.unchecked_ids(conversation, "?")
            last = max(position for position, token in enumerate(ids) if token in (self.video_id, self.image_id))
            return ids[: last + 1]
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
        """How much of the context the window and the media that wait for the next question take."""
        ids = self.finished_ids(conversation)
        waiting = conversation.attached if ids else conversation.media
        return len(ids) + sum(self.tokens_of(medium.kind) for medium in waiting)

    def media_starts(self, ids: Sequence[int], media: Sequence[Frames]) -> list[int]:
        """The position of each medium's first placeholder in a prompt that shows `media`."""
        starts: list[int] = []
        position = 0
        for medium in media:
            position = ids.index(self._placeholder(medium.kind), position)
            starts.append(position)
            position += self.tokens_of(medium.kind)
        return starts

    def tokens_of(self, kind: MediaKind) -> int:
        """How many tokens a medium takes."""
        return self.checkpoint.tokens_per_video if kind == "video" else self.checkpoint.tokens_per_image

    def answer_ids(self, text: str) -> tuple[int, ...]:
        """The ids of an answer that this model didn't give by itself."""
        if not text.strip():
            return ()
        return self._encode(prompt.readable(text, special_tokens=self.tokenizer.all_special_tokens), has_start=False)

    def option_ids(self, choices: Sequence[str], *, prompt_tokens: int = 0) -> tuple[tuple[int, ...], ...]:
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
        """Whether these ids can be kept for an answer: ids of this tokenizer that read so and hold no placeholder.

        Those of an answer that `is_cut` may say more at its end.
        """
        forbidden = {*self.banned_ids, *self.stop_ids}
        if not all(0 <= token < len(self.tokenizer) and token not in forbidden for token in ids):
            return False
        text = self.text_of(list(ids))
        return text.startswith(answer) if is_cut else text == answer

    def text_of(self, ids: list[int]) -> str:
        """The text of an answer's ids, special tokens left out."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def _question_ids(self, question: str, media: Sequence[Frames], *, is_first: bool) -> tuple[int, ...]:
        text = prompt.readable(question, special_tokens=self.tokenizer.all_special_tokens)
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
            ids = self.tokenizer(text, add_special_tokens=has_start)["input_ids"]
            if len(self._known) == MOST_KNOWN:
                del self._known[next(iter(self._known))]
            self._known[key] = tuple(int(token) for token in ids)
        return self._known[key]

    def _placeholder(self, kind: MediaKind) -> int:
        return self.video_id if kind == "video" else self.image_id

    def _check_placeholders(self, ids: list[int], kinds: Counter[MediaKind]) -> None:
        found = (ids.count(self.video_id), ids.count(self.image_id))
        wanted = (
            kinds["video"] * self.checkpoint.tokens_per_video,
            kinds["image"] * self.checkpoint.tokens_per_image,
        )
        if found != wanted:
            raise CheckpointError(
                f"The tokenizer of {self.checkpoint.model} made {found[0]} video and {found[1]} image tokens where "
                f"{wanted[0]} and {wanted[1]} are needed: its files are not those of a Video-LLaVA checkpoint."
            )

    def _check_room(self, prompt_tokens: int, kinds: Counter[MediaKind]) -> None:
        context = self.context_tokens
        if prompt_tokens < context:
            return
        video = kinds["video"] * self.checkpoint.tokens_per_video
        image = kinds["image"] * self.checkpoint.tokens_per_image
        raise ContextError(
            f"The prompt has {prompt_tokens} tokens ({video} of {kinds['video']} video(s), {image} of {kinds['image']} "
            f"image(s), {prompt_tokens - video - image} of text) and the context holds {context}: "
            "ask about fewer clips, or shorten the question."
        )


@dataclass(kw_only=True)
class GrowingText:
    """The text of an answer while its ids arrive.

    What may still change is held back: a character split over several tokens and, with `holds_stray`, a "Ъ" of which it
    is not yet known whether it begins a Cyrillic word. A "Ъ" that belongs to none ends the text in front of it.
    """

    tokens: Tokens
    holds_stray: bool = True
    ids: list[int] = field(default_factory=list)
    text: str = ""
    has_stray: bool = False

    def push(self, token: int) -> str:
        """Adds an id and returns the text that it completed, which may be ""."""
        self.ids.append(token)
        whole = self.tokens.text_of(self.ids)
        is_open = whole.endswith(REPLACEMENT) or (self.holds_stray and whole.endswith("Ъ"))
        return "" if is_open else self._advance(whole)

    def rest(self) -> str:
        """What was still held back when the answer ended."""
        return self._advance(self.tokens.text_of(self.ids))

    def _advance(self, whole: str) -> str:
        stray = stray_start(whole) if self.holds_stray else None
        if stray is not None:
            self.has_stray = True
            whole = whole[:stray]
        new = whole[len(self.text) :]
        self.text = whole
        return new


def read_tokens(checkpoint: Checkpoint) -> Tokens:
    """The checkpoint's tokenizer. Errors: CheckpointError where the files can't be used."""
    from transformers import AutoTokenizer, GenerationConfig

    config = read_config(checkpoint.folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder, local_files_only=True, trust_remote_code=False)
    except Exception as exc:  # tokenizers raises bare Exception
        raise CheckpointError(f"The tokenizer in {checkpoint.folder} can't be used: fetch the model again.") from exc
    try:
        stop = GenerationConfig.from_pretrained(checkpoint.folder, local_files_only=True).eos_token_id
    except OSError:
        stop = None
    stop_ids = _ids(stop) or _ids(tokenizer.eos_token_id)
    media_ids = _ids([config.video_token_id, config.image_token_id])
    return Tokens(
        checkpoint=checkpoint,
        tokenizer=tokenizer,
        video_id=config.video_token_id,
        image_id=config.image_token_id,
        stop_ids=stop_ids,
        banned_ids=tuple(sorted((media_ids | _ids(tokenizer.pad_token_id)) - stop_ids)),
        context_tokens=checkpoint.context_tokens,
    )


def _ids(value: Any) -> frozenset[int]:
    """2 → {2}, [2, 3] → {2, 3}, None → {}."""
    if value is None:
        return frozenset()
    return frozenset(value) if isinstance(value, list) else frozenset([int(value)])
