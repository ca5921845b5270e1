"""The object `made_with` of a row, which says how an answer was made, and the whole report of an answer.

ask, chat and batch write it, replay reads it.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib import metadata
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

from vllava_cli import __version__
from vllava_cli.choices import by_choice
from vllava_cli.errors import MediaError
from vllava_cli.media.fingerprint import Fingerprint, StoppedError
from vllava_cli.nouns import (
    FRAMES_PER_CLIP,
    SHORT_NAMES,
    Attention,
    Checkpoint,
    Conversation,
    Dtype,
    Fit,
    Frames,
    Framing,
    LoadPlan,
    Precision,
    Sampling,
    Stats,
    StopReason,
)
from vllava_cli.storage.fields import Fields
from vllava_cli.storage.session_file import read_sampling

if TYPE_CHECKING:
    from vllava_cli.engine.generate import Engine

MADE_WITH = "made_with"
KEYS = (
    *("versions", "device", "precision", "dtype", "quantisation", "attention", "adapter"),
    *("fit", "clips", "sampling", "prompt_sha256", "answer_ids"),
)
"""The keys of the object, in its order."""
LIBRARIES = ("transformers", "torch", "av")
SEED_BITS = 32
"""The size of a drawn seed: JSON's readers keep whole numbers up to 53 bits."""


class AdapterFacts(NamedTuple):
    """A merged adapter as a row names it."""

    name: str
    revision: str | None
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A model as an engine holds it, and the libraries that compute with it."""

    model: str
    revision: str | None
    device: str
    precision: Precision
    dtype: Dtype
    quantisation: str | None
    """The quantisation of the weights: "bitsandbytes nf4, compute bf16"."""
    attention: Attention
    adapter: AdapterFacts | None = None
    versions: tuple[tuple[str, str], ...] = ()
    """The libraries with their releases."""

    @classmethod
    def of(cls, plan: LoadPlan, checkpoint: Checkpoint) -> Loaded:
        """Describe what this plan loads here."""
        adapter = checkpoint.adapter
        further = ("bitsandbytes",) * bool(plan.quantisation) + ("peft",) * bool(adapter)
        return cls(
            model=checkpoint.model,
            revision=checkpoint.revision,
            device=plan.device,
            precision=plan.precision,
            dtype=plan.dtype,
            quantisation=_quantisation(plan),
            attention=plan.attention,
            adapter=AdapterFacts(adapter.name, adapter.revision, adapter.sha256) if adapter else None,
            versions=tuple((name, here) for name in ("vllava", *LIBRARIES, *further) if (here := _release(name))),
        )


@dataclass(frozen=True, kw_only=True)
class ShownClip:
    """The section of a clip that was shown, and its file's size and hash; a row has path and times elsewhere."""

    framing: Framing
    bytes: int | None = None
    sha256: str | None = None
    """The hash of the file; of a folder, that of `fingerprint`."""

    def hashed(self, found: Future[Fingerprint] | None) -> ShownClip:
        """Add size and hash, and wait for them; unchanged where the clip is gone or no hash was begun."""
        try:
            known = found.result() if found else None
        except (MediaError, StoppedError, CancelledError):
            known = None
        return replace(self, bytes=known.bytes, sha256=known.sha256) if known else self


@dataclass(frozen=True, kw_only=True)
class Making:
    """All that an answer follows from, beside its question and the clips' paths; and its ids."""

    loaded: Loaded
    fit: Fit
    clips: tuple[ShownClip, ...]
    sampling: Sampling
    prompt_sha256: str
    answer_ids: tuple[int, ...]

    @property
    def seed(self) -> int | None:
        """The seed of the draw; None where nothing was drawn."""
        return self.sampling.seed if is_drawn(self.sampling) else None

    def row(self) -> dict[str, Any]:
        """Write the object; about 800 bytes and 7 for each token of the answer."""
        loaded = self.loaded
        return {
            "versions": dict(loaded.versions),
            "device": loaded.device,
            "precision": loaded.precision,
            "dtype": loaded.dtype,
            "quantisation": loaded.quantisation,
            "attention": loaded.attention,
            "adapter": loaded.adapter._asdict() if loaded.adapter else None,
            "fit": self.fit,
            "clips": [_clip_row(clip) for clip in self.clips],
            "sampling": sampling_row(self.sampling),
            "prompt_sha256": self.prompt_sha256,
            "answer_ids": list(self.answer_ids),
        }


def is_drawn(sampling: Sampling) -> bool:
    """Say whether tokens are drawn, so that a seed matters."""
    return sampling.temperature > 0 and not sampling.choices


def seeded(sampling: Sampling) -> Sampling:
    """Add a seed to the sampling, drawn here, where one is needed and none was given."""
    if not is_drawn(sampling) or sampling.seed is not None:
        return sampling
    return replace(sampling, seed=secrets.randbits(SEED_BITS))


def sampling_row(sampling: Sampling) -> dict[str, Any]:
    row = asdict(sampling) | {"choices": list(sampling.choices)}
    if not sampling.choices:
        del row["choices"], row["is_calibrated"]
    return row


def read_making(fields: Fields, *, model: str, revision: str | None) -> Making:
    """Read what `Making.row` wrote. Errors: those of `fields`."""
    versions = fields.inside("versions")
    loaded = Loaded(
        model=model,
        revision=revision,
        device=fields.filled("device"),
        precision=fields.one_of("precision", get_args(Precision)),
        dtype=fields.one_of("dtype", get_args(Dtype)),
        quantisation=fields.maybe("quantisation", fields.text),
        attention=fields.one_of("attention", get_args(Attention)),
        adapter=fields.maybe("adapter", lambda key: _read_adapter(fields.inside(key))),
        versions=tuple((name, versions.text(name)) for name in versions.names()),
    )
    fit = fields.one_of("fit", get_args(Fit))
    return Making(
        loaded=loaded,
        fit=fit,
        clips=fields.each("clips", lambda clips, place: _read_clip(clips.inside(place), fit)),
        sampling=read_sampling(fields.inside("sampling")),
        prompt_sha256=fields.sha256("prompt_sha256"),
        answer_ids=fields.each("answer_ids", Fields.whole),
    )


def others(loaded: Loaded) -> tuple[str, ...]:
    """Name the libraries that have another release now: ("transformers was 5.17.0, and is 5.23.0 here",)."""
    found = ((name, release, _release(name)) for name, release in loaded.versions)
    return tuple(f"{name} was {then}, and is {now or 'missing'} here" for name, then, now in found if now != then)


@cache
def _release(library: str) -> str | None:
    return __version__ if library == "vllava" else version_of(library)


def _quantisation(plan: LoadPlan) -> str | None:
    kinds: Mapping[str, str] = {"4bit": "nf4", "8bit": "int8"}
    return f"bitsandbytes {kinds[plan.quantisation]}, compute {SHORT_NAMES[plan.dtype]}" if plan.quantisation else None


def _clip_row(clip: ShownClip) -> dict[str, Any]:
    framing = clip.framing
    part = {"start_s": framing.start_s, "end_s": framing.end_s, "at_s": list(framing.at_s)}
    return {"bytes": clip.bytes, "sha256": clip.sha256, **part}


def _read_clip(fields: Fields, fit: Fit) -> ShownClip:
    return ShownClip(
        framing=Framing(
            start_s=fields.maybe("start_s", fields.seconds),
            end_s=fields.maybe("end_s", fields.seconds),
            at_s=fields.each("at_s", Fields.seconds, most=FRAMES_PER_CLIP),
            fit=fit,
        ),
        bytes=fields.maybe("bytes", fields.whole),
        sha256=fields.maybe("sha256", fields.sha256),
    )


def _read_adapter(fields: Fields) -> AdapterFacts:
    return AdapterFacts(fields.filled("name"), fields.maybe("revision", fields.filled), fields.sha256("sha256"))


def report(conversation: Conversation, clips: Sequence[ShownClip], engine: Engine) -> dict[str, Any]:
    """Write the object that --json prints of the last turn; times in seconds, memory in bytes.

    `clips` say more of the conversation's media. Only an answer that was to be chosen has probabilities.
    """
    turn, plan, checkpoint = conversation.turns[-1], engine.plan, engine.tokens.checkpoint
    stats, choices = turn.stats, turn.sampling.choices
    making = Making(
        loaded=Loaded.of(plan, checkpoint),
        fit=conversation.fit,
        clips=tuple(clips),
        sampling=turn.sampling,
        prompt_sha256=turn.prompt_sha256,
        answer_ids=turn.answer_ids,
    )
    return {
        "answer": turn.answer,
        **({"probabilities": by_choice(choices, turn.probabilities)} if choices else {}),
        "stop_reason": turn.stop_reason,
        "question": turn.question,
        "model": checkpoint.model,
        "revision": checkpoint.revision,
        "device": plan.device,
        "dtype": plan.dtype,
        "quantisation": plan.quantisation,
        "attention": plan.attention,
        "clips": [_clip_report(medium) for medium in conversation.media],
        "sampling": sampling_row(turn.sampling),
        "tokens": {"prompt": stats.prompt_tokens, "reused": stats.reused_tokens, "new": stats.new_tokens},
        "timings_s": {
            "frames": round(stats.frames_s, 4),
            "load": round(stats.load_s, 4),
            "first_token": round(stats.first_token_s, 4) if _has_token(stats, turn.stop_reason) else None,
            "decode": round(stats.decode_s, 4),
        },
        "peak_bytes": stats.peak_bytes,
        "stray": stats.stray_tokens,
        MADE_WITH: making.row(),
    }


def counts(stats: Stats) -> str:
    """ "2070 prompt tokens (2056 reused), 12 new, 31.0 tokens/s", or "2.5 s a token" where that is slow."""
    steps, rate = stats.new_tokens - 1, ""
    if steps > 0 and stats.decode_s:
        is_slow = stats.decode_s > steps
        rate = f", {stats.decode_s / steps:.1f} s a token" if is_slow else f", {steps / stats.decode_s:.1f} tokens/s"
    return f"{stats.prompt_tokens} prompt tokens ({stats.reused_tokens} reused), {stats.new_tokens} new{rate}"


def first_token(stats: Stats, stop_reason: StopReason | None) -> str:
    """ "first token 0.46 s", or that none came before the answer was interrupted."""
    came = _has_token(stats, stop_reason)
    return f"first token {stats.first_token_s:.2f} s" if came else f"no token in {stats.first_token_s:.2f} s"


def _has_token(stats: Stats, stop_reason: StopReason | None) -> bool:
    """Say whether a token came; an answer that is empty because it ended at once has the one that ended it."""
    return stats.new_tokens > 0 or stop_reason != "interrupted"


def _clip_report(medium: Frames) -> dict[str, Any]:
    times = None if medium.kind == "image" else [round(time_s, 4) for time_s in medium.times_s]
    return {"path": str(medium.clip.path), "kind": medium.kind, "frame_times_s": times}


def version_of(package: str) -> str | None:
    try:
        return metadata.version(package)
    except (metadata.PackageNotFoundError, ValueError):  # a ValueError for a name that can't be one
        return None
