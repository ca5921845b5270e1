"""How an answer was made: the object `made_with` of a row. ask, chat and batch write it, replay reads it."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from concurrent.futures import CancelledError, Future
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any, NamedTuple, get_args

from vllava_cli import __version__
from vllava_cli.commands.versions import version_of
from vllava_cli.errors import MediaError
from vllava_cli.media.fingerprint import Fingerprint, StoppedError
from vllava_cli.nouns import FRAMES_PER_CLIP, Attention, Checkpoint, Dtype, Fit, Framing, LoadPlan, Precision, Sampling
from vllava_cli.session.session_rows import read_sampling
from vllava_cli.storage.fields import Fields

MADE_WITH = "made_with"
KEYS = (
    *("versions", "device", "precision", "dtype", "quantisation", "attention", "adapter"),
    *("fit", "clips", "sampling", "prompt_sha256", "answer_ids"),
)
"""Those of the object, in its order."""
LIBRARIES = ("transformers", "torch", "av")
SEED_BITS = 32
"""Of a seed that is drawn: JSON's readers keep whole numbers up to 53 bits."""


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
    """How the weights were quantised: "bitsandbytes nf4, compute bf16"."""
    attention: Attention
    adapter: AdapterFacts | None = None
    versions: tuple[tuple[str, str], ...] = ()
    """(library, its release)."""

    @classmethod
    def of(cls, plan: LoadPlan, checkpoint: Checkpoint) -> Loaded:
        """What is loaded by this plan here."""
        adapter = checkpoint.adapter
        further = ("bitsandbytes",) * bool(plan.quantisation) + ("peft",) * bool(adapter)
        return cls(
            model=checkpoint.model,
            revision=checkpoint.revision,
            device=plan.device,
            precision=precision_of(plan),
            dtype=plan.dtype,
            quantisation=_quantisation(plan),
            attention=plan.attention,
            adapter=AdapterFacts(adapter.name, adapter.revision, adapter.sha256) if adapter else None,
            versions=tuple((name, here) for name in ("vllava", *LIBRARIES, *further) if (here := _release(name))),
        )


@dataclass(frozen=True, kw_only=True)
class ShownClip:
    """What of a clip was shown, and what its file was; a row has its path and its frames' times elsewhere."""

    framing: Framing
    bytes: int | None = None
    sha256: str | None = None
    """Of a folder: that of `fingerprint`."""

    def hashed(self, found: Future[Fingerprint] | None) -> ShownClip:
        """With size and hash, which are waited for; as it is where the clip can't be read any more or nobody waits."""
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
        """None where nothing was drawn."""
        return self.sampling.seed if is_drawn(self.sampling) else None

    def row(self) -> dict[str, Any]:
        """As JSON has it; about 800 bytes and 7 for each token of the answer."""
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
    """Whether tokens are drawn, so that a seed matters."""
    return sampling.temperature > 0 and not sampling.choices


def seeded(sampling: Sampling) -> Sampling:
    """The sampling with a seed, drawn here where one is needed and none was given."""
    if not is_drawn(sampling) or sampling.seed is not None:
        return sampling
    return replace(sampling, seed=secrets.randbits(SEED_BITS))


def precision_of(plan: LoadPlan) -> Precision:
    """As --precision spells it."""
    return plan.quantisation or _short(plan.dtype)


def sampling_row(sampling: Sampling) -> dict[str, Any]:
    row = asdict(sampling) | {"choices": list(sampling.choices)}
    if not sampling.choices:
        del row["choices"], row["is_calibrated"]
    return row


def read_making(fields: Fields, *, model: str, revision: str | None) -> Making:
    """What `Making.row` wrote. Errors: those of `fields`."""
    loaded = Loaded(
        model=model,
        revision=revision,
        device=fields.filled("device"),
        precision=fields.one_of("precision", get_args(Precision)),
        dtype=fields.one_of("dtype", get_args(Dtype)),
        quantisation=fields.maybe("quantisation", fields.text),
        attention=fields.one_of("attention", get_args(Attention)),
        adapter=fields.maybe("adapter", lambda key: _read_adapter(fields.inside(key))),
        versions=_read_versions(fields.inside("versions")),
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
    """Which libraries have another release now: ("transformers was 5.17.0, and is 5.23.0 here",)."""
    found = ((name, release, _release(name)) for name, release in loaded.versions)
    return tuple(f"{name} was {then}, and is {now or 'missing'} here" for name, then, now in found if now != then)


@cache
def _release(library: str) -> str | None:
    return __version__ if library == "vllava" else version_of(library)


def _quantisation(plan: LoadPlan) -> str | None:
    kinds: Mapping[str, str] = {"4bit": "nf4", "8bit": "int8"}
    return f"bitsandbytes {kinds[plan.quantisation]}, compute {_short(plan.dtype)}" if plan.quantisation else None


def _short(dtype: Dtype) -> Precision:
    names: dict[Dtype, Precision] = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp32"}
    return names[dtype]


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


def _read_versions(fields: Fields) -> tuple[tuple[str, str], ...]:
    return tuple((name, fields.text(name)) for name in fields.names())
