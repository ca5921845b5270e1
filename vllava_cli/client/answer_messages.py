"""The messages between a command that decodes clips itself and the server whose engine answers about them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from vllava_cli.answers import Answer, Sampling
from vllava_cli.engine.answering import Maker
from vllava_cli.errors import ServerError, VllavaError
from vllava_cli.nouns import Checkpoint, Fit, Frames, LoadPlan, MediaKind
from vllava_cli.storage.fields import Fields

if TYPE_CHECKING:
    from collections.abc import Mapping

MOST_HEAD_BYTES = 1 << 12
_FILES = (
    *("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json"),
    *("preprocessor_config.json", "video_preprocessor_config.json", "processor_config.json"),
)
"""The files of a checkpoint that decide which prompts and pixels its model gets."""


@dataclass(frozen=True, kw_only=True)
class EngineFacts:
    """The facts about a server's engine that a command needs before it asks."""

    version: str
    """The release of vllava that runs there."""
    model: str
    """The digest of the checkpoint; see `model_digest`."""
    name: str
    plan: LoadPlan
    context_tokens: int
    rows: int
    """The most answers that are made at once."""
    maker: Maker


@dataclass(frozen=True, kw_only=True)
class FramesHead:
    """The first line of a message with frames; raw pixels follow it."""

    kind: MediaKind
    fit: Fit
    shape: tuple[int, ...]
    """[T, H, W]."""
    sizes: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True, kw_only=True)
class TurnMessage:
    """A turn that was answered before, as far as the prompt depends on it."""

    question: str
    answer_ids: tuple[int, ...] = ()
    media: tuple[str, ...] = ()
    """The digests of its media."""


@dataclass(frozen=True, kw_only=True)
class AnswerMessage:
    """A question after a conversation; media are named by their digests."""

    id: str
    """A random name by which the answer can be interrupted."""
    model: str
    """The digest of the checkpoint that is to answer; another server may have taken the address of the first."""
    question: str
    sampling: Sampling
    fit: Fit
    turns: tuple[TurnMessage, ...] = ()
    attached: tuple[str, ...] = ()
    dropped: int = 0

    @property
    def digests(self) -> tuple[str, ...]:
        """The digests of all media."""
        return tuple(digest for turn in self.turns for digest in turn.media) + self.attached


def head_of(frames: Frames, fit: Fit) -> bytes:
    """Writes the line of JSON before the pixels of frames; their times don't matter to a model, and aren't sent."""
    head = FramesHead(kind=frames.kind, fit=fit, shape=frames.pixels.shape[:3], sizes=frames.sizes)
    return json.dumps(asdict(head)).encode() + b"\n"


def message_of(frames: Frames, fit: Fit) -> bytes:
    """Writes frames as a line of JSON and the raw pixels."""
    return head_of(frames, fit) + frames.pixels.tobytes()


def digest_of(frames: Frames, fit: Fit) -> str:
    """Returns the SHA-256 of `message_of`, without making that: frames of 4K take 200 MB."""
    digest = hashlib.sha256(head_of(frames, fit))
    for frame in frames.pixels:
        digest.update(frame.tobytes())
    return digest.hexdigest()


def model_digest(checkpoint: Checkpoint) -> str:
    """Returns a digest of what tells a checkpoint from others: its small files, its revision, its adapter.

    The weights of a folder count by their names and sizes: reading them would take as long as loading them.
    """
    digest = hashlib.sha256(repr((checkpoint.revision, checkpoint.adapter and checkpoint.adapter.sha256)).encode())
    for name in _FILES:
        path = checkpoint.folder / name
        digest.update(path.read_bytes() if path.is_file() else b"-")
    if checkpoint.revision is None:
        weights = sorted((path.name, path.stat().st_size) for path in checkpoint.folder.glob("*.safetensors"))
        digest.update(repr(weights).encode())
    return digest.hexdigest()


def plain(answer: Answer) -> dict[str, Any]:
    """Writes an answer as JSON values, without the fields that are empty."""
    return {name: value for name, value in asdict(answer).items() if value not in ((), None)}


def answer_of(values: Any) -> Answer:
    """Reads what `plain` wrote. Errors: ServerError."""
    return fields_of(values, "the server's answer", ServerError).build(Answer)


def fields_of(values: Any, where: str, error: type[VllavaError]) -> Fields:
    """Returns the fields of a JSON object. Errors: `error` for other values."""
    if not isinstance(values, dict):
        raise error(f"{where}: it is not an object")
    found: Mapping[str, Any] = values
    return Fields(found, where, error=error)
