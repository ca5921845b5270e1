"""How a frame becomes the model's square: the sizes and places that `pixels` goes by, and the squares for eyes to see.

Free of torch: `seen` resizes with Pillow, whose bicubic is within two levels of 255 of what the model gets.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from vllava_cli.errors import MediaError
from vllava_cli.nouns import Fit, Frames, VideoRecipe

Size = tuple[int, int]
"""(height, width)"""
_BICUBIC = Image.Resampling.BICUBIC
_ROWS = 256
_LONGEST = 1 << 18


def seen(frames: Frames, recipe: VideoRecipe, *, fit: Fit = "crop") -> npt.NDArray[np.uint8]:
    """[T, S, S, 3]: what the model is shown of each frame, before the colours are normalised.

    Errors: MediaError for a frame so long and thin that the whole of it doesn't fit into memory on the way.
    """
    height, width = frames.pixels.shape[1:3]
    if fit != "crop" and max(height, width) > _LONGEST:
        raise MediaError(f"A frame of {width}x{height} is too long and thin for --fit {fit}. Use --fit crop.")
    square = {"crop": _cropped, "pad": _padded, "squash": _squashed}[fit]
    return np.stack([np.asarray(square(Image.fromarray(pixels), recipe)) for pixels in frames.pixels])


def short_side_size(size: Size, short_side: int) -> Size:
    """The size once its short side is `short_side`, the long one truncated: (480, 640) to 224 → (224, 298)."""
    height, width = size
    if width <= height:
        return int(short_side * height / width), short_side
    return short_side, int(short_side * width / height)


def crop_corner(size: Size, recipe: VideoRecipe) -> tuple[int, int]:
    """(top, left) of the square that is cut from the middle: (224, 298) → (0, 37)."""
    height, width = size
    return int((height - recipe.crop_height) / 2.0), int((width - recipe.crop_width) / 2.0)


def padding(size: Size) -> tuple[int, int, int]:
    """(side, top, left) of a picture in the middle of a square; the odd row or column goes below or right."""
    height, width = size
    side = max(height, width)
    return side, (side - height) // 2, (side - width) // 2


def padding_colour(mean: tuple[float, ...]) -> tuple[int, ...]:
    """The mean as a colour: (0.481, 0.458, 0.408) → (123, 117, 104)."""
    return tuple(round(value * 255) for value in mean)


def _cropped(image: Image.Image, recipe: VideoRecipe) -> Image.Image:
    """Only the part that stays is resized: all of a picture 1 pixel high would not fit into memory."""
    height, width = short_side_size((image.height, image.width), recipe.short_side)
    top, left = crop_corner((height, width), recipe)
    across, down = image.width / width, image.height / height
    bottom, right = top + recipe.crop_height, left + recipe.crop_width
    return image.resize(
        (recipe.crop_width, recipe.crop_height), _BICUBIC, (left * across, top * down, right * across, bottom * down)
    )


def _padded(image: Image.Image, recipe: VideoRecipe) -> Image.Image:
    """As of the whole square, which isn't made: some rows at a time are widened and resized, then the columns."""
    side, top, left = padding((image.height, image.width))
    colour = padding_colour(recipe.mean)
    strip = Image.new("RGB", (recipe.crop_width, side), colour)
    for first in range(0, image.height, _ROWS):
        last = min(first + _ROWS, image.height)
        rows = Image.new("RGB", (side, last - first), colour)
        rows.paste(image.crop((0, first, image.width, last)), (left, 0))
        strip.paste(rows.resize((recipe.crop_width, last - first), _BICUBIC), (0, top + first))
    return _squashed(strip, recipe)


def _squashed(image: Image.Image, recipe: VideoRecipe) -> Image.Image:
    return image.resize((recipe.crop_width, recipe.crop_height), _BICUBIC)
