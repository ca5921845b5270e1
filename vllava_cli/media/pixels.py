"""Frames → tensors, bit for bit as transformers makes them, without torchvision; media imports torch only here."""

from __future__ import annotations

import hashlib
import inspect
from dataclasses import replace
from pathlib import Path
from typing import Any, cast
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from vllava_cli.errors import CheckpointError
from vllava_cli.media.preprocess import Size, crop_corner, padded, padding_colour, short_side_size
from vllava_cli.nouns import (
    Checkpoint,
    Fit,
    Frames,
    MediaKind,
    VideoRecipe,
)


def video_pixels(frames: Frames, recipe: VideoRecipe, *, fit: Fit = "crop") -> Tensor:
    """Makes pixels [1, T, 3, S, S], float32 on the CPU; with "crop", those of transformers' VideoLlavaVideoProcessor.

    "pad" first widens each frame to a square with the recipe's mean colour; "squash" resizes both sides to the square.
    """
    return _normalise(_fitted(frames, recipe, fit).contiguous(), recipe)[None]


def pixels_of(medium: Frames, checkpoint: Checkpoint, fit: Fit) -> Tensor:
    """Makes the pixels of a video or an image as the checkpoint's tower takes them."""
    if medium.kind == "video":
        return video_pixels(medium, checkpoint.video_recipe, fit=fit)
    return image_pixels(medium, checkpoint.folder, fit=fit)


class PixelDigests:
    """Hashes the pixels that a checkpoint's towers get: they follow from a clip, its times and all options.

    The hash of frames is remembered as long as they are in use.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._known: WeakKeyDictionary[Frames, dict[Fit, str]] = WeakKeyDictionary()

    def of(self, medium: Frames, fit: Fit) -> str:
        """Returns the SHA-256 of a medium's kind, shape and pixels, in hexadecimal digits."""
        digests = self._known.setdefault(medium, {})
        if fit not in digests:
            pixels = pixels_of(medium, self._checkpoint, fit).contiguous().numpy()
            digests[fit] = hashlib.sha256(f"{medium.kind} {pixels.shape}".encode() + pixels.tobytes()).hexdigest()
        return digests[fit]


def fitted(frames: Frames, recipe: VideoRecipe, *, fit: Fit) -> Frames:
    """Reduces a video to the squares [T, S, S, 3] that the tower takes; its `video_pixels` stay the same, bit for bit.

    The 50 MB of a 1080p clip become 1.2 MB. Frames that a second fitting would change are returned as they are: a still
    image, or any frames if the recipe's square differs from its short side. So are frames for which there is too little
    memory; the model's own thread reports that.
    """
    if frames.kind == "image" or {recipe.crop_height, recipe.crop_width} != {recipe.short_side}:
        return frames
    try:
        pixels = _fitted(frames, recipe, fit).permute(0, 2, 3, 1).contiguous()
    except (MemoryError, RuntimeError):
        return frames
    return replace(frames, pixels=pixels.numpy(), sizes=())


def fitted_image(frames: Frames, folder: Path, *, fit: Fit) -> Frames:
    """Reduces an image to the square [1, S, S, 3] that the tower takes; its `image_pixels` stay the same, bit for bit.

    The 36 MB of a photo become 0.15 MB. As with `fitted`, an image that a second fitting would change is returned as it
    is, and so is one for which there is too little memory.
    """
    processor = _image_processor(folder)
    square = {"height": processor.size.get("shortest_edge"), "width": processor.size.get("shortest_edge")}
    if frames.kind != "image" or dict(processor.crop_size) != square:
        return frames
    try:
        tensor = _processed(processor, frames, fit, is_normalised=False)
    except (MemoryError, RuntimeError):
        return frames
    return replace(frames, pixels=tensor.permute(0, 2, 3, 1).contiguous().to(torch.uint8).numpy(), sizes=())


def image_pixels(frames: Frames, folder: Path, *, fit: Fit = "crop") -> Tensor:
    """Makes pixels [1, 3, S, S], float32, of a still image with the checkpoint's own VideoLlavaImageProcessor."""
    return _processed(_image_processor(folder), frames, fit)


def _processed(processor: Any, frames: Frames, fit: Fit, *, is_normalised: bool = True) -> Tensor:
    image = frames.pixels[0]
    options: dict[str, Any] = {} if is_normalised else {"do_rescale": False, "do_normalize": False}
    if fit != "crop":
        options["size"] = {"height": processor.crop_size["height"], "width": processor.crop_size["width"]}
    if fit == "pad":
        image = padded(image, processor.image_mean)
    # Newer versions of transformers warn if this option is missing; older ones don't know it.
    if "return_legacy_image_output" in inspect.signature(processor.preprocess).parameters:
        options["return_legacy_image_output"] = False
    # Without the format, a picture 3 pixels high would be taken for one with channels first.
    batch = processor.preprocess([image], return_tensors="pt", input_data_format="channels_last", **options)
    (tensor,) = batch.values()
    return cast("Tensor", tensor)


def mean_colour(kind: MediaKind, checkpoint: Checkpoint) -> tuple[int, ...]:
    """Returns the mean colour that a checkpoint's preprocessing expects of videos or of images: (123, 117, 104)."""
    if kind == "video":
        return padding_colour(checkpoint.video_recipe.mean)
    return padding_colour(tuple(_image_processor(checkpoint.folder).image_mean))


def _image_processor(folder: Path) -> Any:
    from transformers.models.video_llava.image_processing_video_llava import VideoLlavaImageProcessor

    try:
        return VideoLlavaImageProcessor.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError) as exc:
        raise CheckpointError(f"{folder} has no usable preprocessor_config.json: copy the base model's.") from exc


def _fitted(frames: Frames, recipe: VideoRecipe, fit: Fit) -> Tensor:
    """Turns each frame into a square by itself, one at a time to save memory: [T, 3, S, S] uint8."""
    return torch.cat([_square(frame, recipe, fit) for frame in frames.pictures])


def _square(frame: npt.NDArray[np.uint8], recipe: VideoRecipe, fit: Fit) -> Tensor:
    """Turns a frame into a square: [H, W, 3] → [1, 3, S, S] uint8.

    The colours of a pixel stay beside each other in memory. Colour by colour, the same bytes take three times as long.
    """
    whole = padded(frame, recipe.mean) if fit == "pad" else frame
    uint8 = torch.from_numpy(whole).permute(2, 0, 1)[None]
    if fit == "crop":
        return _crop(_resize(uint8, short_side_size(_size(uint8), recipe.short_side)), recipe)
    return _resize(uint8, (recipe.crop_height, recipe.crop_width))


def _resize(pixels: Tensor, size: Size) -> Tensor:
    """Resizes bicubically, in uint8 on the CPU: in float, or on a GPU, the last bit would differ."""
    if _size(pixels) == size:
        return pixels
    return functional.interpolate(pixels, size=size, mode="bicubic", align_corners=False, antialias=True)


def _crop(pixels: Tensor, recipe: VideoRecipe) -> Tensor:
    top, left = crop_corner(_size(pixels), recipe)
    return pixels[..., top : top + recipe.crop_height, left : left + recipe.crop_width]


def _normalise(pixels: Tensor, recipe: VideoRecipe) -> Tensor:
    """Computes (x - mean * 255) / (std * 255) in float32; another order of the steps would differ in the last bit."""
    mean = torch.tensor(recipe.mean).mul(255.0).view(3, 1, 1)
    std = torch.tensor(recipe.std).mul(255.0).view(3, 1, 1)
    return pixels.to(torch.float32).sub_(mean).div_(std)


def _size(pixels: Tensor) -> Size:
    height, width = pixels.shape[-2:]
    return height, width
