"""Turns questions into token ids with the checkpoint's tokenizer, and counts the turns to drop so that a prompt fits.

The `tokenizers` library reads tokenizer.json as it is. transformers' AutoTokenizer rebuilds the pipeline of a
LlamaTokenizer checkpoint and drops the file's normaliser: the ids then lack a lone ▁ after <video>, with which the
model was trained.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllava_cli import prompt
from vllava_cli.answers import Conversation, Sampling
from vllava_cli.choices import checked
from vllava_cli.engine.checkpoint import read_config
from vllava_cli.errors import CheckpointError, ContextError, UsageError, reason_of
from vllava_cli.nouns import Checkpoint, Frames, MediaKind
from vllava_cli.storage.fields import check_json_file, read_object, unusable

if TYPE_CHECKING:
    import tokenizers

HARD_SIGN = "Ъ"
_BYTE = re.compile("<0x[0-9A-Fa-f]{2}>")
MOST_BYTES = 64 << 20
"""The limit of tokenizer.json; the published one has 1.84 MB."""
ChoiceIds = tuple[int, ...]
"""The ids of a choice as an answer."""
MOST_KNOWN = 1024
"""The number of texts whose ids are remembered; one with a video of the 7B model takes 30 KB."""
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


@dataclass(frozen=True, kw_only=True, eq=False)
class Tokenizer:
    """Turns text into token ids, and token ids into text."""

    backend: tokenizers.Tokenizer
    pad_token: str | None
    eos_token: str | None

    def __len__(self) -> int:
        """The number of tokens in the vocabulary, added ones included."""
        return int(self.backend.get_vocab_size(with_added_tokens=True))

    def encode(self, text: str, *, has_start: bool) -> tuple[int, ...]:
        """Returns the ids of a text; with `has_start` they begin with <s>."""
        return tuple(self.backend.encode(text, add_special_tokens=has_start).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of ids, without special tokens and without ids that no token has."""
        return str(self.backend.decode(list(ids)))

    def id_of(self, token: str | None) -> int | None:
        """Returns the id of a token, None if there is no such token: "<video>" → 32001."""
        found: int | None = None if token is None else self.backend.token_to_id(token)
        return found

    def text_of(self, token: int) -> str:
        """Returns the text of a token that doesn't begin an answer: 410 → " red"; the name of a special token."""
        twice, once = self.decode((token, token)), self.decode((token,))
        return twice[len(once) :] or str(self.backend.id_to_token(token) or "")

    def ends_bytes(self, token: int) -> bool:
        """Returns True if this id ends a run of byte tokens. Special tokens and ids that no token has don't end it."""
        text = self.backend.id_to_token(token)
        return text is not None and text not in self.special_tokens and not _BYTE.fullmatch(text)

    @cached_property
    def special_tokens(self) -> tuple[str, ...]:
        """The tokens that a user's text must not turn into: ("<unk>", "<s>", "</s>", "<image>", …)."""
        added = self.backend.get_added_tokens_decoder()
        return tuple(token.content for _, token in sorted(added.items()) if token.special)

    @cached_property
    def hard_sign_ids(self) -> frozenset[int]:
        """The ids that can complete a "Ъ": the letter's own token, with and without a space, and its last byte."""
        texts = (HARD_SIGN, f" {HARD_SIGN}", f"a{HARD_SIGN}", 2 * HARD_SIGN)
        return frozenset(ids[-1] for text in texts if (ids := self.encode(text, has_start=False)))


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """A checkpoint's tokenizer, with the ids that stand for media, end an answer or may not be in one."""

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

    def prompt_ids(self, conversation: Conversation, question: str) -> list[int]:
        """Returns the ids of the conversation and of the new question, up to and including its "ASSISTANT:".

        Errors: UsageError for an empty question, ContextError for a prompt that leaves no room for an answer,
        CheckpointError for a tokenizer that makes too many or too few placeholders.
        """
        ids = self.unchecked_ids(conversation, question)
        kinds = Counter(medium.kind for medium in conversation.media)
        self._check_placeholders(ids, kinds)
        self._check_length(len(ids), kinds)
        return ids

    def unchecked_ids(self, conversation: Conversation, question: str) -> list[int]:
        """Returns the ids of `prompt_ids`, however many they are. Errors: UsageError for an empty question."""
        ids = self.finished_ids(conversation)
        media = conversation.attached if ids else conversation.media
        return [*ids, *self._question_ids(question, media, is_first=not ids)]

    def known_ids(self, conversation: Conversation) -> list[int]:
        """Returns the ids that begin the next prompt, whatever its question: those of its turns and attached media."""
        if conversation.attached:
            ids = self.unchecked_ids(conversation, "?")
            return ids[: self.media_end(ids)]
        return self.finished_ids(conversation)

    def finished_ids(self, conversation: Conversation) -> list[int]:
        """Returns the ids of the turns in the window, each answer with the ids that the model made; no turns → []."""
        ids: list[int] = []
        for number, turn in enumerate(conversation.window):
            dropped = conversation.turns[: conversation.dropped] if number == 0 else []
            media = tuple(medium for early in dropped for medium in early.media) + turn.media
            ids += self._question_ids(turn.question, media, is_first=number == 0)
            ids += turn.answer_ids
        return ids

    def used(self, conversation: Conversation) -> int:
        """Counts the tokens of context that the turns in the window take, and the media that wait for a question."""
        ids = self.finished_ids(conversation)
        waiting = conversation.attached if ids else conversation.media
        return len(ids) + sum(self.tokens_of(medium.kind) for medium in waiting)

    def media_starts(self, ids: Sequence[int], media: Sequence[Frames]) -> list[int]:
        """Returns the position of each medium's first placeholder in a prompt that shows `media`."""
        starts: list[int] = []
        position = 0
        for medium in media:
            position = ids.index(self.placeholders[medium.kind], position)
            starts.append(position)
            position += self.tokens_of(medium.kind)
        return starts

    def media_end(self, ids: Sequence[int]) -> int:
        """Returns the position after the last placeholder of a prompt; the prompt must have one."""
        return 1 + max(position for position, token in enumerate(ids) if token in self.placeholders.values())

    def tokens_of(self, kind: MediaKind) -> int:
        """Returns the number of tokens that a video or an image takes."""
        return self.checkpoint.tokens_per_video if kind == "video" else self.checkpoint.tokens_per_image

    def answer_ids(self, text: str) -> tuple[int, ...]:
        """Returns the ids of an answer that the model didn't decode, for example of a choice; an empty text → ()."""
        if not text.strip():
            return ()
        return self._encode(prompt.readable(text, special_tokens=self.tokenizer.special_tokens), has_start=False)

    def option_ids(self, choices: Sequence[str], *, prompt_tokens: int = 0) -> tuple[ChoiceIds, ...]:
        """Returns the ids of each choice as an answer: those after "ASSISTANT:" if the whole text were tokenised.

        If each space begins a token, as in Llama's vocabulary, a choice alone gives the same ids. Errors:
        UsageError for fewer than two choices, for an empty one and for two that the model reads alike; ContextError if
        a choice doesn't fit after the prompt.
        """
        options = tuple(map(self.answer_ids, checked(choices)))
        for place, ids in enumerate(options):
            if ids in options[:place]:
                first, second = choices[options.index(ids)], choices[place]
                raise UsageError(f"To the model, the choices {first!r} and {second!r} are the same: leave one out.")
        longest = max(map(len, options))
        if prompt_tokens + longest > self.context_tokens:
            raise ContextError(
                f"The prompt has {prompt_tokens} tokens, the longest of the choices {longest}, and the context holds "
                f"{self.context_tokens}: shorten the choices or the question, or ask about fewer clips."
            )
        return options

    def are_of(self, ids: Sequence[int], answer: str, *, is_cut: bool) -> bool:
        """Returns True if these ids can be used for an answer: an answer may hold them, and their text is the answer.

        If the answer `is_cut`, their text only has to begin with it.
        """
        if not self.can_hold(ids):
            return False
        text = self.tokenizer.decode(ids)
        return text.startswith(answer) if is_cut else text == answer

    def can_hold(self, ids: Sequence[int]) -> bool:
        """Returns True if an answer may hold these ids: all have tokens; none is a placeholder, <pad> or a stop."""
        forbidden = {*self.banned_ids, *self.stop_ids}
        return all(0 <= token < len(self.tokenizer) and token not in forbidden for token in ids)

    def _question_ids(self, question: str, media: Sequence[Frames], *, is_first: bool) -> tuple[int, ...]:
        return self._encode(self.written(question, media), has_start=is_first)

    def written(self, question: str, media: Sequence[Frames]) -> str:
        """Writes a turn up to the start of its answer, as it is tokenised. Errors: UsageError for an empty question."""
        text = prompt.readable(question, special_tokens=self.tokenizer.special_tokens)
        return prompt.expand(
            prompt.turn(text, [medium.kind for medium in media]),
            tokens_per_video=self.checkpoint.tokens_per_video,
            tokens_per_image=self.checkpoint.tokens_per_image,
        )

    @cached_property
    def _encode(self) -> Callable[..., tuple[int, ...]]:
        """Encodes texts and remembers their ids: each prompt needs all earlier turns; 2056 placeholders take 4 ms."""
        return lru_cache(MOST_KNOWN)(self.tokenizer.encode)

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
    """Reads a checkpoint's tokenizer and special ids. Errors: CheckpointError for files that can't be used."""
    config = read_config(checkpoint.folder)
    tokenizer = read_tokenizer(checkpoint.folder)
    generation = read_settings(checkpoint.folder / "generation_config.json")
    stop_ids = _ids(generation.get("eos_token_id")) or _ids(tokenizer.id_of(tokenizer.eos_token))
    rows = range(config.text_config.vocab_size)
    banned_ids = {token for token in rows if tokenizer.backend.id_to_token(token) is None}  # an id may lack a token
    banned_ids |= _ids([config.video_token_id, config.image_token_id]) | _ids(tokenizer.id_of(tokenizer.pad_token))
    return Tokens(
        checkpoint=checkpoint,
        tokenizer=tokenizer,
        placeholders={"video": config.video_token_id, "image": config.image_token_id},
        stop_ids=stop_ids,
        banned_ids=tuple(token for token in sorted(banned_ids - stop_ids) if token in rows),
        context_tokens=checkpoint.context_tokens,
        unobeyed=unobeyed(generation),
    )


def read_tokenizer(folder: Path) -> Tokenizer:
    """Reads the tokenizer of a checkpoint. Errors: CheckpointError for files that can't be used."""
    import tokenizers

    path = folder / "tokenizer.json"
    check_json_file(path, most_bytes=MOST_BYTES)
    settings = read_settings(folder / "tokenizer_config.json")
    names = read_settings(folder / "special_tokens_map.json") | settings
    with _refusals(path):
        backend = tokenizers.Tokenizer.from_file(str(path))
    with _refusals(folder / "tokenizer_config.json", "added_tokens_decoder: "):
        _add_missing(backend, settings.get("added_tokens_decoder"))
    with _refusals(path):
        backend.encode("")  # fails if a template names tokens that the file lacks
    backend.no_truncation()  # a training run may have left it in the file
    backend.no_padding()
    return Tokenizer(backend=backend, pad_token=_text(names.get("pad_token")), eos_token=_text(names.get("eos_token")))


@contextmanager
def _refusals(path: Path, what: str = "") -> Iterator[None]:
    """Turns an error of the tokenizers library into one sentence about a file. Errors: CheckpointError."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as exc:  # tokenizers raises bare Exception; a panic of its Rust code is a BaseException
        raise unusable(path, f"{what}{reason_of(exc)}") from exc


def read_settings(path: Path) -> dict[str, Any]:
    """Reads the object in a JSON file; no file → {}. Errors: CheckpointError."""
    return read_object(path) if path.exists() else {}


def _add_missing(backend: tokenizers.Tokenizer, added: Any) -> None:
    """Adds the tokens that only tokenizer_config.json lists, if they get the ids that it gives them."""
    import tokenizers

    for number, settings in sorted((added or {}).items(), key=lambda item: int(item[0])):
        if backend.token_to_id(settings["content"]) is None and int(number) == backend.get_vocab_size():
            flags = {name: bool(settings.get(name)) for name in ("lstrip", "rstrip", "normalized", "single_word")}
            token = tokenizers.AddedToken(settings["content"], special=bool(settings.get("special")), **flags)
            (backend.add_special_tokens if settings.get("special") else backend.add_tokens)([token])


def _text(token: Any) -> str | None:
    """Returns the text of a token, None if it has none: "<pad>" or {"content": "<pad>", …} → "<pad>"."""
    found = token.get("content") if isinstance(token, dict) else token
    return found if isinstance(found, str) else None


def digest_of(ids: Sequence[int]) -> str:
    """Returns the SHA-256 of ids, written as decimal numbers with commas between them: [1, 2] → that of "1,2"."""
    return hashlib.sha256(",".join(map(str, ids)).encode()).hexdigest()


def unobeyed(generation: Mapping[str, Any]) -> tuple[str, ...]:
    """Lists the sampling settings of a generation_config.json that this tool ignores.

    {"eos_token_id": 2, "repetition_penalty": 1.1, "top_k": 50} → ("repetition_penalty 1.1",)
    """
    return tuple(
        f"{name} {value}"
        for name, value in sorted(generation.items())
        if name in _NEUTRAL and value is not None and value not in _NEUTRAL[name]
    )


def _ids(value: Any) -> frozenset[int]:
    """Returns a config's ids as a set: 2 → {2}, [2, 3] → {2, 3}, None → {}; values that are no numbers are left out."""
    return frozenset(each for each in (value if isinstance(value, list) else [value]) if isinstance(each, int))


def dropped(tokens: Tokens, conversation: Conversation, question: str, sampling: Sampling) -> int:
    """Counts the oldest turns that must be dropped so that a question and its answer fit. Errors: UsageError.

    Turns that are already dropped are counted, too. All media stay, and a drop costs a prefill of the turns after them.
    To make drops rare, a drop leaves a quarter of the context besides the media free if it can; but the last turn is
    dropped only if the question and its answer don't fit otherwise.
    """
    options = tokens.option_ids(sampling.choices) if sampling.choices else ()
    answer = max(map(len, options), default=min(sampling.max_new_tokens, ANSWER_TOKENS))
    left = tokens.context_tokens - sum(tokens.tokens_of(medium.kind) for medium in conversation.media)
    spare = left // 4
    most = tokens.context_tokens - min(answer, max(1, spare))
    gone = range(conversation.dropped, len(conversation.turns) + 1)
    lengths: list[int] = []
    for number in gone:
        lengths.append(len(tokens.unchecked_ids(replace(conversation, dropped=number), question)))
        if lengths[0] <= most:
            return number
    if lengths[-1] >= tokens.context_tokens:
        return conversation.dropped  # no drop would help: `prompt_ids` refuses the question
    roomy = (number for number, length in zip(gone[:-1], lengths, strict=False) if length <= most - spare)
    tight = (number for number, length in zip(gone, lengths, strict=True) if length <= most)
    return next(roomy, next(tight, gone[-1]))
