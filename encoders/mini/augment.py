"""Augmentation of training pictures: random changes like those that framing, light and compression make to video."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from encoders.mini.tower import scale_pixels

ZOOM = (0.55, 1.1)  # side of the crop over the side of the picture; above 1 adds black borders, like a letterbox
STRETCH = 0.25  # largest natural logarithm of width over height
TURN_RADIANS = 0.12  # largest rotation
JITTER = 0.3  # largest relative change of brightness, contrast and saturation
CAST = 0.1  # largest relative change of one colour
GREY_SHARE = 0.05  # share of pictures that lose all colour
SOFT_SHARE = 0.25  # share of batches scaled down and up again, like small or heavily compressed video
SOFT_SCALE = (0.4, 0.9)  # factor of scaling down
NOISE = 0.02  # standard deviation, for pictures in -1..1


def augment(pixels: Tensor, side_px: int, generator: torch.Generator) -> Tensor:
    """Crop, mirror, rotate and recolour each picture at random.

    Args:
        pixels: uint8 (B, H, W, 3) RGB.
        side_px: Width and height of the result.
        generator: Random generator on the device of `pixels`.
    Returns:
        float32 (B, 3, side_px, side_px) in -1..1.
    """
    count, device = len(pixels), pixels.device

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(count, *shape, generator=generator, device=device) * (high - low) + low

    x = scale_pixels(pixels)
    zoom = torch.exp(uniform(math.log(ZOOM[0]), math.log(ZOOM[1])))
    stretch = torch.exp(uniform(-STRETCH, STRETCH) / 2)
    turn = uniform(-TURN_RADIANS, TURN_RADIANS)
    mirror = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
    width, height = zoom * stretch, zoom / stretch
    across = uniform(-1, 1) * (1 - width).clamp(min=0)
    down = uniform(-1, 1) * (1 - height).clamp(min=0)
    to_column = torch.stack([mirror * width * turn.cos(), -height * turn.sin(), across], dim=1)
    to_row = torch.stack([mirror * width * turn.sin(), height * turn.cos(), down], dim=1)
    affine = torch.stack([to_column, to_row], dim=1)  # (B, 2, 3)
    grid = F.affine_grid(affine, [count, 3, side_px, side_px], align_corners=False)
    x = F.grid_sample(x + 1, grid, align_corners=False) - 1  # black outside the picture

    if torch.rand((), generator=generator, device=device) < SOFT_SHARE:
        scale = torch.rand((), generator=generator, device=device).item() * (SOFT_SCALE[1] - SOFT_SCALE[0])
        small = F.interpolate(x, size=round(side_px * (scale + SOFT_SCALE[0])), mode="bilinear", antialias=True)
        x = F.interpolate(small, size=side_px, mode="bilinear")

    brightness = uniform(1 - JITTER, 1 + JITTER, 1, 1, 1)
    colour = uniform(1 - CAST, 1 + CAST, 3, 1, 1)
    x = (x + 1) * brightness * colour - 1
    grey = x.mean(dim=1, keepdim=True)
    saturation = uniform(1 - JITTER, 1 + JITTER, 1, 1, 1) * (uniform(0, 1, 1, 1, 1) > GREY_SHARE)
    x = grey + (x - grey) * saturation
    middle = x.mean(dim=(1, 2, 3), keepdim=True)
    x = middle + (x - middle) * uniform(1 - JITTER, 1 + JITTER, 1, 1, 1)
    x = x + NOISE * torch.randn(x.shape, generator=generator, device=device)
    return x.clamp(-1, 1)
