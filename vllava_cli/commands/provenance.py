"""Writes and reads `made_with`, the object in a row that says how an answer was made; writes an answer's report.

ask, chat and batch write `made_with`; `recorded` reads whole rows.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib import metadata
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

from vllava_cli import __version__
from vllava_cli.answers import (
    MOST_SAMPLES,
    Agreeing,
    Agreement,
    Conversation,
    Sampling,
    Stats,
    StopReason,
)
from vllava_cli.choices import by_choice
from vllava_cli.errors import MediaError
from vllava_cli.media.fingerprint import Fingerprint, StoppedError
from vllava_cli.nouns import (
    SHORT_NAMES,
    Attention,
    Checkpoint,
    Dtype,
    Fit,
    Frames,
    Framing,
    LoadPlan,
    PickReason,
    Precision,
    Quantisation,
)
from vllava_cli.storage.fields import Fields
from vllava_cli.storage.session_file import framing_row, read_framing, read_sampling

if TYPE_CHECKING:
    from vllava_cli.engine.answering import AskEngine
    from vllava_cli.media.timeline.spoken import Spoken

MADE_WITH = "made_with"
KEYS = (
    *("versions", "device", "precision", "dtype", "quantisation", "attention", "adapter"),
    *("fit", "clips", "sampling", "prompt_sha256", "answer_ids"),
)
"""The keys of `made_with`, in order."""
AGREE = "agree"
"""The key of `made_with` that says how often a clip was sampled; only rows of --agree have it."""
AGREEMENT_KEYS = ("agreement", "agreement_reason")
"""The keys that only a row about a clip that was sampled several times has."""
SPOKEN = "spoken"
"""The key of `made_with` that it has only if subtitles went into the prompt."""
CHOICE_STYLE = "choice_style"
"""The last key of `made_with`, "letter"; only an answer whose choices were written into the question has it."""
_LETTER = "letter"
LIBRARIES = ("transformers", "torch", "av")
KINDS: dict[Quantisation, str] = {"4bit": "nf4", "8bit": "int8"}
SEED_BITS = 32
"""The bits of a drawn seed; they are few because readers of JSON keep whole numbers up to 53 bits only."""


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
    """The quantisation of the weights: "bitsandbytes nf4, compute bf16"; on a CPU "vllava int4, rows 1, compute bf16",
    with the layout that the products have."""
    attention: Attention
    adapter: AdapterFacts | None = None
    versions: tuple[tuple[str, str], ...] = ()
    """Pairs of a library and its release."""

    @classmethod
    def of(cls, plan: LoadPlan, checkpoint: Checkpoint) -> Loaded:
        """Describes the checkpoint as `plan` loads it, with the libraries of this machine."""
        adapter = checkpoint.adapter
        further = ("bitsandbytes",) * bool(plan.quantisation and not plan.is_held) + ("peft",) * bool(adapter)
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

    @classmethod
    def by(cls, engine: AskEngine) -> Loaded:
        """Describes the checkpoint as an engine has it, with the libraries of the process that makes the answers."""
        plan, checkpoint, maker = engine.plan, engine.tokens.checkpoint, engine.maker
        if maker is None:
            return cls.of(plan, checkpoint)
        adapter = checkpoint.adapter
        return cls(
            model=checkpoint.model,
            revision=checkpoint.revision,
            device=plan.device,
            precision=plan.precision,
            dtype=plan.dtype,
            quantisation=maker.quantisation,
            attention=plan.attention,
            adapter=AdapterFacts(adapter.name, adapter.revision, adapter.sha256) if adapter else None,
            versions=maker.versions,
        )


def _quantisation(plan: LoadPlan) -> str | None:
    if plan.quantisation is None:
        return None
    kind = f"bitsandbytes {KINDS[plan.quantisation]}"
    if plan.is_held:
        from vllava_cli.engine.cpu.held_weights import QUANTISED
        from vllava_cli.engine.cpu.products import products

        kind = f"vllava {QUANTISED[plan.quantisation]}, {products().layout}"
    return f"{kind}, compute {SHORT_NAMES[plan.dtype]}"


@dataclass(frozen=True, kw_only=True)
class ShownClip:
    """The framing in which a clip was shown, and the size and hash of the clip's file."""

    framing: Framing
    bytes: int | None = None
    sha256: str | None = None
    """The SHA-256 of the file; for a folder, the one that `fingerprint` makes of all its pictures."""
    path: str = ""
    """The clip's path in the row. `made_with` has neither the path nor the times."""
    times_s: tuple[float, ...] | None = None
    """The times of the clip's frames, rounded to four decimals; None for an image."""
    reasons: tuple[PickReason, ...] = ()
    """Why each frame was picked; () where they are evenly spaced or the user named their times."""

    def hashed(self, found: Future[Fingerprint] | None) -> ShownClip:
        """Waits for size and hash and adds them; returns the clip unchanged if they can't be computed."""
        try:
            known = found.result() if found else None
        except (MediaError, StoppedError, CancelledError):
            known = None
        return replace(self, bytes=known.bytes, sha256=known.sha256) if known else self


@dataclass(frozen=True, kw_only=True)
class Making:
    """All that an answer depends on, except the question and the clips' paths; and the ids of the answer."""

    loaded: Loaded
    fit: Fit
    clips: tuple[ShownClip, ...]
    sampling: Sampling
    prompt_sha256: str
    answer_ids: tuple[int, ...]
    agreeing: Agreeing | None = None
    """How often the clip was sampled; the clip has the framing of the sample whose answer is shown."""
    spoken: Spoken | None = None
    """What is spoken in the clip, if that was asked for; of one that was read from a row, only the text is known."""
    has_letters: bool = False
    """Whether choices were written into the question, and their letters compared."""

    @property
    def seed(self) -> int | None:
        """The seed with which tokens were drawn; None if none was drawn."""
        return self.sampling.seed if is_drawn(self.sampling) else None

    def row(self) -> dict[str, Any]:
        """Returns the object `made_with`: about 800 bytes of JSON, and 7 for each token of the answer."""
        found = vars(self.loaded) | vars(self)
        found |= {
            "versions": dict(self.loaded.versions),
            "adapter": self.loaded.adapter._asdict() if self.loaded.adapter else None,
            "clips": [_shown_row(clip) for clip in self.clips],
            "sampling": sampling_row(self.sampling),
            "answer_ids": list(self.answer_ids),
        }
        agree = {AGREE: asdict(self.agreeing)} if self.agreeing else {}
        said = {SPOKEN: self.spoken.text} if self.spoken and self.spoken.text else {}
        style = {CHOICE_STYLE: _LETTER} if self.has_letters else {}
        return {key: found[key] for key in KEYS} | agree | said | style


def is_drawn(sampling: Sampling) -> bool:
    """Returns True if tokens are drawn at random, so that a seed matters."""
    return sampling.temperature > 0 and not sampling.choices


def seeded(sampling: Sampling) -> Sampling:
    """Adds a random seed to the sampling if tokens are drawn and no seed was given."""
    if not is_drawn(sampling) or sampling.seed is not None:
        return sampling
    return replace(sampling, seed=secrets.randbits(SEED_BITS))


def sampling_row(sampling: Sampling) -> dict[str, Any]:
    row = asdict(sampling) | {"choices": list(sampling.choices)}
    if not sampling.choices:
        del row["choices"], row["is_calibrated"]
    if not sampling.blank_choice:
        del row["blank_choice"]
    return row


def read_making(fields: Fields, *, model: str, revision: str | None) -> Making:
    """Reads an object that `Making.row` wrote. Errors: those of `fields`."""
    versions = fields.inside("versions")
    loaded = fields.build(
        Loaded,
        model=model,
        revision=revision,
        device=fields.filled("device"),
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
        agreeing=_read_agreeing(fields.inside(AGREE)) if fields.has(AGREE) else None,
        spoken=_read_spoken(fields) if fields.has(SPOKEN) else None,
        has_letters=fields.has(CHOICE_STYLE) and fields.one_of(CHOICE_STYLE, (_LETTER,)) == _LETTER,
    )


def _read_spoken(fields: Fields) -> Spoken:
    from vllava_cli.media.timeline.spoken import Spoken

    return Spoken(text=fields.text(SPOKEN))


def others(loaded: Loaded) -> tuple[str, ...]:
    """Says which libraries have another release now: ("transformers was 5.17.0, and is 5.23.0 here",)."""
    found = ((name, release, _release(name)) for name, release in loaded.versions)
    return tuple(f"{name} was {then}, and is {now or 'missing'} here" for name, then, now in found if now != then)


@cache
def _release(library: str) -> str | None:
    return __version__ if library == "vllava" else version_of(library)


def _shown_row(clip: ShownClip) -> dict[str, Any]:
    row = {"bytes": clip.bytes, "sha256": clip.sha256, **framing_row(clip.framing)}
    return row | {"reasons": list(clip.reasons)} if clip.reasons else row


def _read_clip(fields: Fields, fit: Fit) -> ShownClip:
    return ShownClip(
        framing=read_framing(fields, fit),
        bytes=fields.maybe("bytes", fields.whole),
        sha256=fields.maybe("sha256", fields.sha256),
        reasons=_read_reasons(fields) if fields.has("reasons") else (),
    )


def _read_agreeing(fields: Fields) -> Agreeing:
    samples = fields.whole("samples", least=2)
    if samples > MOST_SAMPLES:
        fields.refuse("samples", f"{samples}, but a clip is sampled at most {MOST_SAMPLES} times")
    return Agreeing(samples=samples, least_share=fields.number("least_share", least=0, most=1))


def _read_reasons(fields: Fields) -> tuple[PickReason, ...]:
    return fields.each("reasons", lambda texts, place: texts.one_of(place, get_args(PickReason)))


def _read_adapter(fields: Fields) -> AdapterFacts:
    return AdapterFacts(fields.filled("name"), fields.maybe("revision", fields.filled), fields.sha256("sha256"))


def agreement_row(agreement: Agreement | None) -> dict[str, Any]:
    """Returns the fields AGREEMENT_KEYS: how the answers about the samples of a clip agree, or why none was compared.

    Both are None for an error.
    """
    if agreement is None or agreement.reason:
        return dict(zip(AGREEMENT_KEYS, (None, agreement.reason if agreement else None), strict=True))
    found = {
        "share": round(agreement.share, 4),
        "of": len(agreement.answers),
        "answers": list(agreement.answers),
        "frame_times_s": [_rounded(times_s) for times_s in agreement.times_s],
    }
    return dict(zip(AGREEMENT_KEYS, (found, None), strict=True))


def report(
    conversation: Conversation,
    clips: Sequence[ShownClip],
    engine: AskEngine,
    *,
    agreeing: Agreeing | None = None,
    agreement: Agreement | None = None,
    spoken: Spoken | None = None,
) -> dict[str, Any]:
    """Returns the object that --json prints for the last turn; times in seconds, memory in bytes.

    `clips` has the framing, size and hash of each of the conversation's media. Only an answer with choices has
    probabilities, only one about a clip that was sampled several times has an agreement, and only one asked with --subs
    has `subs`.
    """
    turn, plan, checkpoint = conversation.turns[-1], engine.plan, engine.tokens.checkpoint
    stats, choices = turn.stats, turn.sampling.choices
    making = Making(
        loaded=Loaded.by(engine),
        fit=conversation.fit,
        clips=tuple(clips),
        sampling=turn.sampling,
        prompt_sha256=turn.prompt_sha256,
        answer_ids=turn.answer_ids,
        agreeing=agreeing,
        spoken=spoken,
    )
    return {
        "answer": turn.answer,
        **({"probabilities": by_choice(choices, turn.probabilities)} if choices else {}),
        **(agreement_row(agreement) if agreeing else {}),
        "stop_reason": turn.stop_reason,
        "question": turn.question,
        "model": checkpoint.model,
        "revision": checkpoint.revision,
        "device": plan.device,
        "dtype": plan.dtype,
        "quantisation": plan.quantisation,
        "attention": plan.attention,
        "clips": list(map(clip_row, conversation.media)),
        **({"subs": spoken.row()} if spoken else {}),
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
    """Writes "2070 prompt tokens (2056 reused), 12 new, 31.0 tokens/s", or "2.5 s a token" if the rate is below 1."""
    steps, rate = stats.new_tokens - 1, ""
    if steps > 0 and stats.decode_s:
        is_slow = stats.decode_s > steps
        rate = f", {stats.decode_s / steps:.1f} s a token" if is_slow else f", {steps / stats.decode_s:.1f} tokens/s"
    return f"{stats.prompt_tokens} prompt tokens ({stats.reused_tokens} reused), {stats.new_tokens} new{rate}"


def first_token(stats: Stats, stop_reason: StopReason | None) -> str:
    """Writes "first token 0.46 s", or "no token in 0.46 s" if the answer was interrupted before a token came."""
    came = _has_token(stats, stop_reason)
    return f"first token {stats.first_token_s:.2f} s" if came else f"no token in {stats.first_token_s:.2f} s"


def _has_token(stats: Stats, stop_reason: StopReason | None) -> bool:
    """Returns True if a token came; an empty answer that ended by itself had the token that ends an answer."""
    return stats.new_tokens > 0 or stop_reason != "interrupted"


def clip_row(frames: Frames) -> dict[str, Any]:
    """Returns the object that describes a clip in a row: its path, kind and frame times."""
    return {"path": str(frames.clip.path), "kind": frames.kind, "frame_times_s": rounded_times(frames)}


def rounded_times(frames: Frames) -> tuple[float, ...] | None:
    """Rounds the times of the frames to four decimals; None for an image."""
    return None if frames.kind == "image" else _rounded(frames.times_s)


def _rounded(times_s: Sequence[float]) -> tuple[float, ...]:
    return tuple(round(time_s, 4) for time_s in times_s)


def version_of(package: str) -> str | None:
    try:
        return metadata.version(package)
    except (metadata.PackageNotFoundError, ValueError):  # a ValueError for a name that no package can have
        return None
