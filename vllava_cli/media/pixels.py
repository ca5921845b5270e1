"""Frames → tensors, bit for bit what transformers' processors give, without torchvision; torch lives here alone."""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from vllava_cli.errors import CheckpointError
from vllava_cli.media.preprocess import Size, crop_corner, padded, padding_colour, short_side_size
from vllava_cli.nouns import Checkpoint, Fit, Frames, MediaKind, VideoRecipe


def video_pixels(frames: Frames, recipe: VideoRecipe, *, fit: Fit = "crop") -> Tensor:
    """[1, T, 3, S, S] float32 on the CPU. With "crop", the output of transformers' VideoLlavaVideoProcessor.

    "pad" first widens the picture to a square with the recipe's mean colour, "squash" resizes both sides to the square.
    """
    return _normalise(_fitted(frames.pixels, recipe, fit), recipe)[None]


def fitted(frames: Frames, recipe: VideoRecipe, *, fit: Fit) -> Frames:
    """The same video no larger than the tower takes it, [T, S, S, 3]: `video_pixels` are equal, bit for bit.

    A 1080p clip's 50 MB become 1.2 MB. What can't be fitted twice without a difference is returned as it is: a still
    image, or where the recipe's square isn't what it resizes to. So are frames for which memory is too short; the
    model's own thread reports that.
    """
    if frames.kind == "image" or {recipe.crop_height, recipe.crop_width} != {recipe.short_side}:
        return frames
    try:
        pixels = _fitted(frames.pixels, recipe, fit).permute(0, 2, 3, 1).contiguous()
    except (MemoryError, RuntimeError):
        return frames
    return replace(frames, pixels=pixels.numpy())


def image_pixels(frames: Frames, folder: Path, *, fit: Fit = "crop") -> Tensor:
    """[1, 3, S, S] float32: the output of the checkpoint's own VideoLlavaImageProcessor for a still image."""
    processor = _image_processor(folder)
    image = frames.pixels[0]
    options: dict[str, Any] = {}
    if fit != "crop":
        options["size"] = {"height": processor.crop_size["height"], "width": processor.crop_size["width"]}
    if fit == "pad":
        image = padded(image, processor.image_mean)
    # Newer versions warn unless they are told which name the result should have; older ones don't know the option.
    if "return_legacy_image_output" in inspect.signature(processor.preprocess).parameters:
        options["return_legacy_image_output"] = False
    # Without the format a picture 3 pixels high would be taken for one with channels first.
    batch = processor.preprocess([image], return_tensors="pt", input_data_format="channels_last", **options)
    (tensor,) = batch.values()
    return cast("Tensor", tensor)


def mean_colour(kind: MediaKind, checkpoint: Checkpoint) -> tuple[int, ...]:
    """The mean colour of what a checkpoint's preprocessing expects of a kind: (123, 117, 104)."""
    if kind == "video":
        return padding_colour(checkpoint.video_recipe.mean)
    return padding_colour(tuple(_image_processor(checkpoint.folder).image_mean))


def _image_processor(folder: Path) -> Any:
    from transformers.models.video_llava.image_processing_video_llava import VideoLlavaImageProcessor

    try:
        return VideoLlavaImageProcessor.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError) as exc:
        raise CheckpointError(f"{folder} has no usable preprocessor_config.json: copy the base's.") from exc


def _fitted(pixels: npt.NDArray[np.uint8], recipe: VideoRecipe, fit: Fit) -> Tensor:
    """[T, H, W, 3] → [T, 3, S, S] uint8; what is made on the way is of one frame at a time."""
    return torch.cat([_square(frame, recipe, fit).contiguous() for frame in pixels])


def _square(frame: npt.NDArray[np.uint8], recipe: VideoRecipe, fit: Fit) -> Tensor:
    """[H, W, 3] → [1, 3, S, S] uint8."""
    whole = padded(frame, recipe.mean) if fit == "pad" else frame
    uint8 = torch.from_numpy(whole).permute(2, 0, 1).contiguous()[None]
    if fit == "crop":
        return _crop(_resize(uint8, short_side_size(_size(uint8), recipe.short_side)), recipe)
    return _resize(uint8, (recipe.crop_height, recipe.crop_width))


def _resize(pixels: Tensor, size: Size) -> Tensor:
    """Bicubic in uint8, on the CPU: in float, or on a GPU, the last bit would differ."""
    if _size(pixels) == size:
        return pixels
    return functional.interpolate(pixels, size=size, mode="bicubic", align_corners=False, antialias=True)


def _crop(pixels: Tensor, recipe: VideoRecipe) -> Tensor:
    top, left = crop_corner(_size(pixels), recipe)
    return pixels[..., top : top + recipe.crop_height, left : left + recipe.crop_width]


def _normalise(pixels: Tensor, recipe: VideoRecipe) -> Tensor:
    """(x - mean * 255) / (std * 255) in float32, fused: another order differs in the last bit."""
    mean = torch.tensor(recipe.mean).mul(255.0).view(3, 1, 1)
    std = torch.tensor(recipe.std).mul(255.0).view(3, 1, 1)
    return pixels.to(torch.float32).sub_(mean).div_(std)


def _size(pixels: Tensor) -> Size:
    height, width = pixels.shape[-2:]
    return height, width
