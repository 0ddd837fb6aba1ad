"""Procedural colour scenes: an unlimited labelled data set that needs no download.

A scene has a background (plain, or a linear or radial blend of two muted colours) and one to three
shapes that do not overlap. Its label is the kind of the largest shape. Scene `i` depends on the
seed and `i` alone; its coordinates are continuous, so that any resolution shows the same scene.
"""

import colorsys

import numpy as np
from numpy.typing import NDArray

KINDS = ("circle", "square", "triangle", "cross", "ring")
# red, orange, yellow, green, cyan, blue, violet, pink
HUES = (0.0, 0.09, 0.16, 0.33, 0.5, 0.62, 0.78, 0.9)


def _distance(kind: str, x: NDArray, y: NDArray, r: float) -> NDArray:
    """Signed distance (negative inside) to a shape of radius `r` around the origin; image units."""
    if kind == "circle":
        return np.hypot(x, y) - r
    if kind == "square":
        return np.maximum(abs(x), abs(y)) - 0.85 * r
    if kind == "triangle":  # equilateral, point up
        return np.maximum(0.866 * abs(x) - 0.5 * y, y) - 0.5 * r
    if kind == "cross":
        along, across = np.maximum(abs(x), abs(y)), np.minimum(abs(x), abs(y))
        return np.maximum(along - r, across - 0.32 * r)
    return abs(np.hypot(x, y) - 0.78 * r) - 0.22 * r  # a ring


def _background(rng: np.random.Generator, x: NDArray, y: NDArray) -> NDArray:
    def muted() -> NDArray:
        hue, saturation, value = rng.random(), rng.uniform(0, 0.3), rng.uniform(0.1, 0.9)
        return np.array(colorsys.hsv_to_rgb(hue, saturation, value))

    first, second = muted(), muted()
    angle = rng.uniform(0, 2 * np.pi)
    style = rng.integers(3)
    if style == 0:
        return np.broadcast_to(first, (*np.broadcast_shapes(x.shape, y.shape), 3))
    if style == 1:
        blend = 0.5 + (x - 0.5) * np.cos(angle) + (y - 0.5) * np.sin(angle)
    else:
        blend = 1.4 * np.hypot(x - 0.5, y - 0.5)
    blend = np.clip(blend, 0, 1)[..., None]
    return first * (1 - blend) + second * blend


def scene(seed: int, i: int, size: int = 32) -> tuple[NDArray[np.uint8], int]:
    """Scene `i`: uint8 [size, size, 3] and its label, an index into KINDS."""
    rng = np.random.default_rng((seed, i))
    ticks = (np.arange(size) + 0.5) / size
    x, y = ticks[None, :], ticks[:, None]
    image = _background(rng, x, y)
    placed: list[tuple[float, float, float]] = []
    label = -1
    for r in np.sort(rng.uniform(0.2, 0.36, rng.integers(1, 4)))[::-1]:
        kind = int(rng.integers(len(KINDS)))
        hue = HUES[rng.integers(len(HUES))]
        color = np.array(colorsys.hsv_to_rgb(hue, 0.9, 0.95))
        for _ in range(20):
            cx, cy = rng.uniform(r, 1 - r, 2)
            if all(np.hypot(cx - px, cy - py) > r + pr for px, py, pr in placed):
                break
        else:
            continue  # no room left for this one
        label = kind if not placed else label
        placed.append((cx, cy, r))
        cover = np.clip(0.5 - _distance(KINDS[kind], x - cx, y - cy, r) * size, 0, 1)[..., None]
        image = image * (1 - cover) + color * cover
    return (image * 255 + 0.5).astype(np.uint8), label
