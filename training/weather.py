"""What cameras and codecs do to frames: blur, chroma loss, light, shading and noise, of random strength per clip."""

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

SIDE = 64
LUMA = (0.299, 0.587, 0.114)


def weather(frames: Tensor, generator: torch.Generator) -> Tensor:
    """Spoils frames [clip, time, 3, 64, 64]: float → uint8."""
    clips = len(frames)
    frames = _blurred(frames, torch.rand(clips, generator=generator) * 1.6 - 0.6)
    luma = (frames * torch.tensor(LUMA)[:, None, None]).sum(2, keepdim=True)
    chroma = _coarse(frames - luma, torch.rand(clips, generator=generator) * 1.7 - 0.7)
    frames = _lit(luma, chroma, generator)
    return _noisy(frames, generator).round_().clamp_(0, 255).to(torch.uint8)


def _lit(luma: Tensor, chroma: Tensor, generator: torch.Generator) -> Tensor:
    """Saturation, a light of slightly false colour, brightness, and a slope from left to right."""
    clips, width = len(luma), luma.shape[-1]

    def between(low: float, high: float, channels: int = 1) -> Tensor:
        return torch.rand(clips, 1, channels, 1, 1, generator=generator) * (high - low) + low

    slope = torch.linspace(-1, 1, width).view(1, 1, 1, 1, -1) * between(-6, 6)
    saturated = luma + chroma * between(0.8, 1.12)
    light = between(0.88, 1.1, channels=3).lerp(between(0.9, 1.1), 0.6)
    return saturated * light + between(-8, 8) + slope


def _blurred(frames: Tensor, strengths: Tensor) -> Tensor:
    """Mixes in a 3x3 binomial blur; a strength [clip] of 0 or less leaves the clip as it is."""
    which = (strengths > 0).nonzero().flatten()
    if len(which) == 0:
        return frames
    sharp = frames[which]
    line = torch.tensor([1.0, 2.0, 1.0]) / 4
    planes = functional.pad(sharp.flatten(0, 2)[:, None], (1, 1, 1, 1), mode="replicate")
    smooth = functional.conv2d(planes, (line[:, None] * line[None])[None, None]).view_as(sharp)
    frames[which] = torch.lerp(sharp, smooth, strengths[which].view(-1, 1, 1, 1, 1))
    return frames


def _coarse(chroma: Tensor, strengths: Tensor) -> Tensor:
    """Mixes in chroma of half the resolution, as in yuv420p."""
    which = (strengths > 0).nonzero().flatten()
    if len(which) == 0:
        return chroma
    fine = chroma[which]
    halved = functional.avg_pool2d(fine.flatten(0, 1), 2)
    coarse = functional.interpolate(halved, scale_factor=2, mode="bilinear", align_corners=False).view_as(fine)
    chroma[which] = torch.lerp(fine, coarse, strengths[which].view(-1, 1, 1, 1, 1))
    return chroma


def _noisy(frames: Tensor, generator: torch.Generator) -> Tensor:
    """Noise of up to 14 levels on two thirds of the clips, another pattern in each frame."""
    clips, times = frames.shape[:2]
    which = (torch.rand(clips, generator=generator) < 0.67).nonzero().flatten()
    if len(which):
        pattern = torch.randint(0, len(_patterns()), (len(which), times), generator=generator)
        strength = torch.rand(len(which), 1, 1, 1, 1, generator=generator) * 14
        frames[which] += _patterns()[pattern] * strength
    return frames


@cache
def _patterns() -> Tensor:
    """256 frames of normal noise, made once: new noise for each clip would take longer than drawing the clip."""
    return torch.randn(256, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(5))
