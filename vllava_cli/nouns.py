"""The values that modules hand to each other, as dataclasses: frozen, keyword-only, with few methods.

Nothing heavy is imported here; numpy appears in annotations alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

FRAMES_PER_CLIP = 8
DEFAULT_MODEL = "LanguageBind/Video-LLaVA-7B-hf"
DEMO_MODEL = "demo"
UNKNOWN_REVISION = ""
WHITE = "#ffffff"
STDIN = "-"
"""The name of a clip or a file of rows that comes from stdin."""
AUTO, OFF = "auto", "off"
"""Words of --server: use a server that runs, or none."""
LAST = "last"
"""The id that stands for the session that was written to last."""

Precision = Literal["fp16", "bf16", "fp32", "8bit", "4bit"]
Dtype = Literal["float16", "bfloat16", "float32"]
Quantisation = Literal["8bit", "4bit"]
Attention = Literal["flash_attention_2", "sdpa", "eager"]
SHORT_NAMES: dict[Dtype, Precision] = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp32"}
Fit = Literal["crop", "pad", "squash"]
SourceKind = Literal["model", "adapter"]
MediaKind = Literal["video", "image"]
PictureForm = Literal["PNG", "JPEG"]
Transfer = Literal["PQ", "HLG"]
"""The two ways to code light that are called HDR."""
Way = Literal["seek", "decode"]
"""The two ways to the frames of a file: seek to the groups of pictures that hold them, or decode all up to them."""
Subs = Path | Literal["auto"]
"""Where what is spoken in a clip is read from: a file, or "auto": a file beside the clip, else a text track in it."""
Pick = Literal["uniform", "scenes", "keyframes"]
PickReason = Literal["scene", "third", "filled", "key frame"]
"""Why a frame was picked. scene: it stands for a scene · third: no scene has its middle in this third of the clip ·
filled: it lies in the middle of a gap · key frame: it is one."""
ExportForm = Literal[
    "video-llava", "activitynet-qa", "nextqa", "mvbench", "videomme", "egoschema", "lmms-eval", "jsonl"
]
"""What a batch's rows can be exported for."""
Boundary = Literal["every", "scenes", "chapters"]
"""What ends a window: an even length, a cut between scenes, or a chapter of the container."""
WINDOW_FLAGS: dict[Boundary, str] = {"every": "--every", "scenes": "--scenes", "chapters": "--at-chapters"}


@dataclass(frozen=True, kw_only=True)
class Log:
    """Takes sentences for the user: `notice` those that a user should know, `detail` the reasons of choices."""

    notice: Callable[[str], object] = str
    detail: Callable[[str], object] = str
    has_bars: bool = False
    """True where progress bars may be drawn on stderr."""
    progress: Callable[[Callable[[], Sequence[str]]], AbstractContextManager[None]] = lambda _: nullcontext()
    """Shows the texts that a function returns while a block runs."""


SILENT = Log()


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """The user's wishes: which model, and how it is loaded. None means that the user has no wish."""

    model: str = DEFAULT_MODEL
    revision: str | None = None
    adapter: str | None = None
    """A LoRA adapter that is merged into the model: a folder or a hub id."""
    device: str | None = None
    precision: Precision | None = None
    attention: Attention | None = None


@dataclass(frozen=True, kw_only=True)
class VideoRecipe:
    """The numbers in a checkpoint's video preprocessor file that say how frames become pixels."""

    short_side: int
    crop_height: int
    crop_width: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


Tiles = VideoRecipe | Literal["whole"]
"""How frames become the tiles of a contact sheet: the squares of a recipe, or the whole of each, scaled to a tile."""


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """A LoRA adapter on disk whose weights are merged into a checkpoint's."""

    name: str
    """The user's name for it: a hub id or a folder."""
    folder: Path
    revision: str | None
    """The commit of the hub's repository; None for a folder."""
    sha256: str
    """The hash of adapter_config.json and adapter_model.safetensors, one after the other."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """The folder of a checkpoint or of an adapter, and where it comes from."""

    model: str
    """The user's name for it: a hub id, a folder or "demo"."""
    folder: Path
    revision: str | None = None
    """The commit of the hub's repository; None for a folder, UNKNOWN_REVISION where the hub would have to be asked."""
    adapter: Adapter | None = None
    """The adapter that is to be merged into it."""
    kind: SourceKind = "model"


@dataclass(frozen=True, kw_only=True)
class Checkpoint(Source):
    """A checkpoint on the disk, as its config files describe it; no weight has been read."""

    language_parameters: int
    """The language model's matrices: what 4-bit and 8-bit quantise."""
    other_parameters: int
    """Towers, projector, embeddings, head and norms: kept in 16 or 32 bits."""
    tower_parameters: int
    """The parameters of one vision tower; both have the same size, and are counted in `other_parameters`."""
    cache_values_per_token: int
    """Numbers that the KV cache holds for one token: 2 * layers * heads * head size."""
    context_tokens: int
    tokens_per_video: int
    """FRAMES_PER_CLIP * (patches per frame + 1)."""
    tokens_per_image: int
    video_recipe: VideoRecipe
    embedding_parameters: int = 0
    """The embeddings and the head, which are counted in `other_parameters`."""
    dtype: Dtype = "float16"
    """The dtype that the config names for the weights."""
    unloaded_parameters: int = 0
    """The parameters of towers that aren't loaded; not counted in `other_parameters`."""

    @property
    def name(self) -> str:
        """The name of the model, and of its adapter if it has one: "owner/model + owner/adapter"."""
        return f"{self.model} + {self.adapter.name}" if self.adapter else self.model

    @property
    def parameters(self) -> int:
        """The parameters of the whole model, loaded or not."""
        return self.language_parameters + self.other_parameters + self.unloaded_parameters

    def seeing(self, kinds: Collection[MediaKind]) -> Checkpoint:
        """Returns the checkpoint as loaded for these kinds of media: a tower that isn't needed takes no memory."""
        unneeded = (2 - len(set(kinds))) * self.tower_parameters
        return replace(self, other_parameters=self.other_parameters - unneeded, unloaded_parameters=unneeded)


@dataclass(frozen=True, kw_only=True)
class LoadPlan:
    """How the weights are loaded: the device, the precision, the attention, and a reason for each, as a sentence."""

    device: str
    dtype: Dtype
    quantisation: Quantisation | None
    attention: Attention
    needed_bytes: int
    """Weights, KV cache of `context_tokens` and activations, on `device`."""
    device_reason: str
    dtype_reason: str
    quantisation_reason: str
    attention_reason: str
    context_tokens: int | None = None
    """The longest conversation that `needed_bytes` allow; None means the checkpoint's whole context."""
    threads: int | None = None
    """The threads of the CPU; None where a GPU computes."""
    threads_reason: str = ""
    forms: tuple[tuple[Precision, str], ...] = ()
    """Each form in which a measured CPU could hold the weights, and a clause: what it needs and how long it takes."""
    is_held: bool = False
    """True if the CPU holds the weights in 16, 8 or 4 bits and unpacks them as it computes."""
    wide_dtype: Dtype = "float32"
    """The dtype in which the CPU then multiplies many rows."""

    @property
    def precision(self) -> Precision:
        """The value of --precision that stands for this plan: float16 → fp16, float16 in 4bit → 4bit."""
        return self.quantisation or SHORT_NAMES[self.dtype]

    @property
    def reasons(self) -> tuple[tuple[str, str, str], ...]:
        """The choices as (what, choice, reason), in the order in which `plan` makes them."""
        return (
            ("device", self.device, self.device_reason),
            ("dtype", self.dtype, self.dtype_reason),
            ("quantisation", self.quantisation or "none", self.quantisation_reason),
            ("attention", self.attention, self.attention_reason),
            *([("threads", str(self.threads), self.threads_reason)] if self.threads else []),
        )


@dataclass(frozen=True, kw_only=True)
class Framing:
    """The section of a clip from which the frames are taken, and how each frame becomes a square for the model."""

    start_s: float | None = None
    end_s: float | None = None
    at_s: tuple[float, ...] = ()
    """The frames shown at these times instead of the reference positions; excludes start_s and end_s."""
    fit: Fit = "crop"
    background: str = WHITE
    """The colour behind transparent frames, "#rrggbb"."""
    is_as_stored: bool = False
    """True if a video's pixels are those of the documentation: neither cropped nor stretched nor tone-mapped."""
    shift: float = 0.0
    """How far the reference positions are moved, in steps: 0.5 is half of the way to the next frame; below 1."""
    pick: Pick = "uniform"
    """How the frames are chosen: evenly, as representatives of scenes, or among the key frames; excludes at_s."""


@dataclass(frozen=True, kw_only=True)
class Windowing:
    """How a clip is divided into windows."""

    by: Boundary = "every"
    every_s: float = 0.0
    """The length of a window; it counts only where `by` is "every"."""
    overlap_s: float = 0.0
    """How much of a window belongs to the one before it, too."""
    tells_still: bool = False
    """True if windows in which nothing changes are marked, which takes a look at all key frames."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """A part of a clip with frames of its own, in seconds from the clip's first frame; `end_s` isn't part of it."""

    start_s: float
    end_s: float
    """Infinite where the part ends with the clip."""
    title: str = ""
    """The name of a chapter."""
    is_held: bool = False
    """True if no frame begins in it: the last frame before it is shown all the time."""
    is_still: bool = False
    """True if nothing changes in it, nor from the window before it to this one."""

    def framing(self, whole: Framing) -> Framing:
        """Returns the framing that takes its frames from this window."""
        if self.is_held:
            return replace(whole, start_s=None, end_s=None, at_s=(self.start_s,), pick="uniform")
        end_s = None if math.isinf(self.end_s) else self.end_s
        return replace(whole, start_s=self.start_s, end_s=end_s, at_s=())


@dataclass(frozen=True, kw_only=True)
class DecodeLimits:
    """The limits on the process that decodes a file."""

    timeout_s: float = 300.0
    """The most wall-clock seconds. The CPU seconds may be this number times the cores."""
    memory_bytes: int = 4 << 30
    """Address space of the decoding process."""


@dataclass(frozen=True, kw_only=True)
class Clip:
    """The facts of one media file. A still image has one frame and neither duration nor frame rate."""

    path: Path
    kind: MediaKind
    width: int
    height: int
    """The size as shown: cropped, stretched and rotated."""
    frame_count: int
    """Frames of the whole file: those of its index where its way is "seek", else those that could be decoded."""
    duration_s: float | None = None
    fps: float | None = None
    codec: str = ""
    container: str = ""
    """FFmpeg's or Pillow's short name: "mp4", "matroska", "gif"; "folder" for a folder of pictures."""
    pixel_format: str = ""
    """The stored format: "yuv420p10le"."""
    transfer: Transfer | None = None
    """How an HDR video codes light; None for SDR."""
    is_rate_constant: bool | None = None
    """True where all frames are equally far apart; None where it isn't known."""
    way: Way | None = None
    """The way to its frames; None for images."""
    way_reason: str = ""
    """The reason for this way, a sentence."""
    rotation: int = 0
    """Degrees clockwise that were applied to the stored picture: 0, 90, 180 or 270."""
    sample_aspect_ratio: str | None = None
    """The shape of a stored pixel, width:height, "64:45"; None where it is square or isn't known."""
    crop: str | None = None
    """The part of a stored picture that the container asks to show, WIDTHxHEIGHT+LEFT+TOP; None for all of it."""
    sizes: tuple[str, ...] = ()
    """The sizes of the frames that were decoded, "320x180", in their order; () where all have the same."""
    faults: tuple[str, ...] = ()
    """The damage of a file that can still be used, a sentence each."""
    notes: tuple[str, ...] = ()
    """What is left out of a sound file, or changed, a sentence each: further pages, pictures that were scaled."""

    @property
    def remarks(self) -> tuple[str, ...]:
        return (*self.faults, *self.notes)


@dataclass(frozen=True, kw_only=True)
class ClipWindows:
    """The windows of a clip, in order; an image has none."""

    clip: Clip
    windows: tuple[Window, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class SpokenLine:
    """One line of subtitles, in seconds from the clip's first frame."""

    start_s: float
    end_s: float
    text: str


@dataclass(frozen=True, kw_only=True)
class Subtitles:
    """The lines that are spoken in a clip, in order, as a file or a track has them."""

    source: str = ""
    """The path of the file, or "stream 2 (mov_text, eng)"; "" where neither was found."""
    lines: tuple[SpokenLine, ...] = ()
    faults: tuple[str, ...] = ()
    """What is wrong with the file or the track, a sentence each."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Frames:
    """The frames that the model sees: pixels [T, H, W, 3] uint8 RGB, times_s [T] in presentation order."""

    clip: Clip
    pixels: npt.NDArray[np.uint8]
    times_s: tuple[float, ...]
    sizes: tuple[tuple[int, int], ...] = ()
    """The (width, height) of each frame, which lies in the upper left corner of its pixels; () for the clip's size."""
    subtitles: Subtitles | None = None
    """The lines that are spoken in this part of the clip; None where they weren't asked for."""
    reasons: tuple[PickReason, ...] = ()
    """Why each frame was picked; () where they are evenly spaced or the user named their times."""

    def __post_init__(self) -> None:
        shape = self.pixels.shape
        if len(shape) != 4 or shape[3] != 3 or self.pixels.dtype.name != "uint8":
            raise ValueError(f"frames must be [T, H, W, 3] uint8, not {list(shape)} {self.pixels.dtype.name}")
        if shape[0] != len(self.times_s):
            raise ValueError(f"{shape[0]} frames with {len(self.times_s)} times")
        if self.sizes and len(self.sizes) != shape[0]:
            raise ValueError(f"{shape[0]} frames with {len(self.sizes)} sizes")
        if self.reasons and len(self.reasons) != shape[0]:
            raise ValueError(f"{shape[0]} frames with {len(self.reasons)} reasons")

    @property
    def kind(self) -> MediaKind:
        return self.clip.kind

    @property
    def pictures(self) -> tuple[npt.NDArray[np.uint8], ...]:
        """The frames one by one, each of its own size: [H, W, 3]."""
        sizes = self.sizes or (self.pixels.shape[2:0:-1],) * len(self.pixels)
        return tuple(frame[:height, :width] for frame, (width, height) in zip(self.pixels, sizes, strict=True))


def counted(number: float, noun: str) -> str:
    """Writes a count: (1, "job") → "1 job", (1000, "job") → "1,000 jobs", (0.5, "GPU") → "0.5 GPUs"."""
    figure = f"{number:,}" if isinstance(number, int) else f"{number:g}"
    return f"{figure} {noun}{'' if number == 1 else 's'}"
