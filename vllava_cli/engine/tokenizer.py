"""The checkpoint's tokenizer file, read as it is by the `tokenizers` library.

transformers' AutoTokenizer rebuilds the pipeline of a LlamaTokenizer checkpoint and drops the file's normaliser: behind
<video> the lone ▁ is then missing that the model was trained with.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllava_cli.errors import reason_of
from vllava_cli.storage.fields import check_json_file, read_object, unusable

if TYPE_CHECKING:
    import tokenizers

HARD_SIGN = "Ъ"
_BYTE = re.compile("<0x[0-9A-Fa-f]{2}>")
MOST_BYTES = 64 << 20
"""The limit of tokenizer.json; the published one has 1.84 MB."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Tokenizer:
    """Text to ids and back."""

    backend: tokenizers.Tokenizer
    pad_token: str | None
    eos_token: str | None

    def __len__(self) -> int:
        """The number of tokens, added ones included."""
        return int(self.backend.get_vocab_size(with_added_tokens=True))

    def encode(self, text: str, *, has_start: bool) -> tuple[int, ...]:
        """The ids of a text, behind <s> where it `has_start`."""
        return tuple(self.backend.encode(text, add_special_tokens=has_start).ids)

    def decode(self, ids: Sequence[int], *, skips_special: bool = True) -> str:
        """The text of ids; special tokens are left out, and so are ids that no token has."""
        return str(self.backend.decode(list(ids), skip_special_tokens=skips_special))

    def id_of(self, token: str | None) -> int | None:
        """The id of a token, or None: "<video>" → 32001."""
        found: int | None = None if token is None else self.backend.token_to_id(token)
        return found

    def rows_without_token(self, rows: int) -> frozenset[int]:
        """The ids below `rows` that no token has: a checkpoint may have more rows than tokens."""
        return frozenset(token for token in range(rows) if self.backend.id_to_token(token) is None)

    def ends_bytes(self, token: int) -> bool:
        """True if a run of bytes is over with this id: special tokens, and ids that no token has, are passed over."""
        text = self.backend.id_to_token(token)
        return text is not None and text not in self.special_tokens and not _BYTE.fullmatch(text)

    @cached_property
    def special_tokens(self) -> tuple[str, ...]:
        """The tokens that text must not turn into: ("<unk>", "<s>", "</s>", "<image>", …)."""
        added = self.backend.get_added_tokens_decoder()
        return tuple(token.content for _, token in sorted(added.items()) if token.special)

    @cached_property
    def hard_sign_ids(self) -> frozenset[int]:
        """The ids that can end a "Ъ": the letter's own token, with and without a space, or its last byte."""
        texts = (HARD_SIGN, f" {HARD_SIGN}", f"a{HARD_SIGN}", 2 * HARD_SIGN)
        return frozenset(ids[-1] for text in texts if (ids := self.encode(text, has_start=False)))


def read_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a checkpoint. Errors: CheckpointError where its files can't be used."""
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
        backend.encode("")  # where a template names tokens that it lacks
    backend.no_truncation()  # what a training run left in the file
    backend.no_padding()
    return Tokenizer(backend=backend, pad_token=_text(names.get("pad_token")), eos_token=_text(names.get("eos_token")))


@contextmanager
def _refusals(path: Path, what: str = "") -> Iterator[None]:
    """Turns an error of the tokenizers library into one sentence about a file. Errors: CheckpointError."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as exc:  # tokenizers raises bare Exception, and its Rust's panics are not even that
        raise unusable(path, f"{what}{reason_of(exc)}") from exc


def read_settings(path: Path) -> dict[str, Any]:
    """The object in a JSON file; {} where there is none. Errors: CheckpointError."""
    return read_object(path) if path.exists() else {}


def _add_missing(backend: tokenizers.Tokenizer, added: Any) -> None:
    """Adds the tokens that only tokenizer_config.json has, as long as they get the ids that it says."""
    import tokenizers

    for number, settings in sorted((added or {}).items(), key=lambda item: int(item[0])):
        if backend.token_to_id(settings["content"]) is None and int(number) == backend.get_vocab_size():
            flags = {name: bool(settings.get(name)) for name in ("lstrip", "rstrip", "normalized", "single_word")}
            token = tokenizers.AddedToken(settings["content"], special=bool(settings.get("special")), **flags)
            (backend.add_special_tokens if settings.get("special") else backend.add_tokens)([token])


def _text(token: Any) -> str | None:
    """ "<pad>" → "<pad>", {"content": "<pad>", …} → "<pad>"."""
    found = token.get("content") if isinstance(token, dict) else token
    return found if isinstance(found, str) else None


REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
CLOSE_TOKENS = 12
"""Three strays within so many tokens are a loop."""
_SIGNS = re.compile(rf"\s*{HARD_SIGN}+")


@dataclass(kw_only=True)
class Detokenizer:
    """Turns ids into text that grows.

    What may still change is held back: a run of bytes, of which none are kept as they are once one makes no character,
    and, with `drops_strays`, a "Ъ" that may still begin a Cyrillic word.
    """

    tokenizer: Tokenizer
    drops_strays: bool = True
    ids: list[int] = field(default_factory=list)
    """The ids of `text`, and of the bytes that are held back."""
    text: str = ""
    produced: int = 0
    """The number of ids that came, strays included."""
    _open: list[int] = field(default_factory=list)
    """The last ids, which don't make a whole character yet."""
    _signs: list[int] = field(default_factory=list)
    """Ids in front of those whose "Ъ" are stray or begin a word."""
    _signs_at: list[int] = field(default_factory=list)
    _strays_at: list[int] = field(default_factory=list)
    """The number of ids at each "Ъ" that waits (`_signs_at`) and at each that was left out."""

    @classmethod
    def of(cls, tokenizer: Tokenizer, ids: Sequence[int], *, drops_strays: bool = True) -> Detokenizer:
        """The state behind these ids. Without a "Ъ" among them their text is made at once."""
        made = cls(tokenizer=tokenizer, drops_strays=drops_strays)
        if ids and not (drops_strays and made.may_stray(ids)):
            made.produced, made._open = len(ids) - 1, list(ids[:-1])
            ids = ids[-1:]
        for token in ids:
            made.push(token)
        return made

    def push(self, token: int) -> str:
        """Adds an id and returns the text that it completed, which may be ""."""
        self.produced += 1
        self._open.append(token)
        whole = self._whole()
        if whole.endswith(REPLACEMENT):
            return ""
        if self.drops_strays and (self._signs or self.may_stray([token])):
            if self._is_sign(whole):
                return ""
            whole = self._whole()
        self._accept()
        return self._advance(whole) if self.tokenizer.ends_bytes(token) else ""

    def rest(self) -> str:
        """Ends the answer: returns the text that was held back. A "Ъ" at its end is stray."""
        self._drop_signs()
        self._accept()
        return self._advance(self._whole())

    def may_stray(self, ids: Sequence[int]) -> bool:
        """True if one of these ids may end a "Ъ"."""
        return not self.tokenizer.hard_sign_ids.isdisjoint(ids)

    @property
    def likely_ids(self) -> list[int]:
        """All ids that came but those that are or may be stray."""
        return self.ids + self._open

    @property
    def stray_tokens(self) -> int:
        """The number of "Ъ" that were left out."""
        return len(self._strays_at)

    @property
    def is_straying(self) -> bool:
        """True if the last three "Ъ" that are or may be stray came within a few tokens."""
        last = [*self._strays_at, *self._signs_at][-3:]
        return len(last) == 3 and last[-1] - last[0] < CLOSE_TOKENS

    def _whole(self) -> str:
        return self.tokenizer.decode(self.ids + self._signs + self._open)

    def _is_sign(self, whole: str) -> bool:
        """Holds back a new "Ъ" that no Cyrillic letter is in front of; else decides on those that were held back."""
        known = self.tokenizer.decode(self.ids + self._signs)
        new = whole[len(known) :]
        if _SIGNS.fullmatch(new) and not _is_cyrillic(whole.rstrip(HARD_SIGN)[-1:]):
            self._signs += self._open
            self._signs_at.append(self.produced)
            self._open = []
            return True
        if _is_cyrillic(new[:1]):
            self.ids += self._signs
            self._signs, self._signs_at = [], []
        self._drop_signs()
        return False

    def _drop_signs(self) -> None:
        self._strays_at += self._signs_at
        self._signs, self._signs_at = [], []

    def _accept(self) -> None:
        self.ids += self._signs + self._open
        self._open = []

    def _advance(self, whole: str) -> str:
        before, self.text = self.text, whole
        return whole[len(before) :]


def _is_cyrillic(letter: str) -> bool:
    return "\u0400" <= letter <= "\u04ff"
