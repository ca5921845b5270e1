"""The checkpoint's tokenizer file, read as it is by the `tokenizers` library.

transformers' AutoTokenizer rebuilds the pipeline of a LlamaTokenizer checkpoint and drops the file's normaliser: behind
<video> the lone ▁ is then missing that the model was trained with.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
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
"""Of tokenizer.json; the published one has 1.84 MB."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Tokenizer:
    """Text to ids and back."""

    backend: tokenizers.Tokenizer
    pad_token: str | None
    eos_token: str | None

    def __len__(self) -> int:
        """How many tokens there are, added ones included."""
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
        """Whether a run of bytes is over with this id: special tokens, and ids that no token has, are passed over."""
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
    try:
        backend = tokenizers.Tokenizer.from_file(str(path))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as exc:  # tokenizers raises bare Exception, and its Rust's panics are not even that
        raise unusable(path, reason_of(exc)) from exc
    try:
        _add_missing(backend, settings.get("added_tokens_decoder"))
    except Exception as exc:
        raise unusable(folder / "tokenizer_config.json", f"added_tokens_decoder: {reason_of(exc)}") from exc
    try:
        backend.encode("")  # where a template names tokens that it lacks
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as exc:  # tokenizers raises bare Exception, and its Rust's panics are not even that
        raise unusable(path, reason_of(exc)) from exc
    backend.no_truncation()  # what a training run left in the file
    backend.no_padding()
    return Tokenizer(backend=backend, pad_token=_text(names.get("pad_token")), eos_token=_text(names.get("eos_token")))


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
