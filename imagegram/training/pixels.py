"""Pixels as the networks see them, and turned, scaled and shifted a little."""

import torch
import torch.nn.functional as F
from torch import Tensor


def jitter(images: Tensor, rng: torch.Generator) -> Tensor:
    """Turn (7 degrees), scale (10 %), shear and shift (2 pixels) images [B, 3, S, S] at random; the borders go on
    outside."""
    r = torch.rand(len(images), 5, generator=rng) * 2 - 1
    angle, scale = r[:, 0] * 0.12, 1 + r[:, 1] * 0.1
    cos, sin = angle.cos() * scale, angle.sin() * scale
    theta = torch.stack([cos, -sin + 0.1 * r[:, 2], 0.12 * r[:, 3], sin, cos, 0.12 * r[:, 4]], 1).view(-1, 2, 3)
    grid = F.affine_grid(theta.to(images.device), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)
