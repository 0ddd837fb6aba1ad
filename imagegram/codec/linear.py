"""A linear codec fitted to a data set's own training images: no network, no noise, nothing painted.

An image is brightness at every pixel and two colour differences at every second one. The main axes
of the training images (PCA) turn that into coefficients, and a coefficient is told by digits: a
curve spreads its values over 0 to 1, and the digits are those of the place in there. They are
handed out one by one to the coefficient whose error is largest, so that the first tokens tell what
changes the image most, every prefix decodes, and what was decoded has the tokens that it was
decoded from (where no pixel was cut to 0 or 255).

All sums are of whole numbers that float64 holds exactly: an image has the same tokens, to the bit,
whatever its batch and the threads. linear_fit.py fits it.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from imagegram.cli import UserError
from imagegram.files import atomic, sha256
from imagegram.tokens import Prefixes

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS = "linear.safetensors"
BASIS_BITS = 15  # of a number of the basis, beside its sign
FINE = 2.0**-10  # a coefficient is a multiple of that when it is decoded
AT_ONCE = 8  # images whose pixels fit in a core's cache
MULTIPLIED = 256  # and whose sums are made by one product
FORMAT = 1  # of the file and of what its numbers mean


def features(images: NDArray[np.uint8]) -> NDArray[np.int16]:
    """Images uint8 [n, 3, S, S] -> whole numbers [n, 3 S^2 / 2]: R + G + B of every pixel, then R -
    B and R - 2 G + B of every square of four; times `scales`, along axes that are orthonormal."""
    n, _, size, _ = images.shape
    found = np.empty((n, 3 * size**2 // 2), np.int16)
    grey, first, second = np.split(found, [size**2, size**2 * 5 // 4], 1)
    for start in range(0, n, AT_ONCE):
        part = slice(start, start + AT_ONCE)
        red, green, blue = images[part].astype(np.int16).swapaxes(0, 1)
        both = red + blue
        grey[part] = (both + green).reshape(len(red), -1)
        first[part] = _squares(red - blue)
        second[part] = _squares(both - 2 * green)
    return found


def _squares(plane: NDArray[np.int16]) -> NDArray[np.int16]:
    """Sums of squares of four pixels, [n, S^2 / 4], of a plane [n, S, S]."""
    rows = plane[:, ::2] + plane[:, 1::2]
    return (rows[:, :, ::2] + rows[:, :, 1::2]).reshape(len(plane), -1)


def scales(size: int) -> NDArray[np.float64]:
    """See `features`."""
    return np.repeat([3**-0.5, 8**-0.5, 24**-0.5], [size**2, size**2 // 4, size**2 // 4])


def pictures(parts: NDArray[np.floating], size: int) -> NDArray[np.uint8]:
    """The images uint8 [n, 3, S, S] of features times their scales squared, [n, 3 S^2 / 2]."""
    n, half = len(parts), size // 2
    grey = parts[:, : size**2].reshape(n, half, 2, size)  # pairs of rows
    first, second = parts[:, size**2 :].reshape(n, 2, half, 1, half).swapaxes(0, 1)
    images = np.empty((n, 3, half, 2, size), parts.dtype)
    for colour, difference in enumerate((first + second, -2 * second, second - first)):
        images[:, colour] = grey + difference.repeat(2, 3)
    np.rint(images, out=images)
    return images.clip(0, 255, out=images).astype(np.uint8).reshape(n, 3, size, size)


class LinearCodec:
    """The codec of a folder that `save` wrote, known by its contents."""

    precision = "exact"
    timesteps = 1
    guidance_scale = 1.0
    own_error: tuple[float, float] | None = None

    def __init__(self, folder: Path, name: str) -> None:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            arrays = load_file(folder / WEIGHTS)
        except (OSError, SafetensorError) as error:
            raise UserError(
                f"the linear codec of {folder} is gone or damaged ({error}): tokenize anew"
            ) from None
        self.name = name
        self.revision = sha256(folder / WEIGHTS)[:16]
        self.levels = tuple(arrays["levels"].tolist())
        self.vocab_size = int(np.prod(self.levels))
        self.plan = arrays["plan"]  # [digits]: the coefficient that each digit tells
        self.tokens_per_image = len(self.plan) // len(self.levels)
        self.mean = arrays["mean"]  # int32, of the features
        self.image_size = round((len(self.mean) / 1.5) ** 0.5)
        # [coefficients, knots]: the curves
        self.values, self.places = arrays["values"], arrays["places"]
        self.step = float(arrays["step"])  # what 1 of the basis means
        self.basis = arrays["basis"].astype(np.float64)  # whole numbers [coefficients, features]
        self.middle = self.basis @ self.mean  # whole as well: what is left out of the sums
        # Of every digit, and of every coefficient when so many tokens are known: what it leaves
        # open, as a share.
        self.widths = np.ones((1 + self.tokens_per_image, len(self.values)))
        self.shares = np.zeros(len(self.plan))
        for number, coefficient in enumerate(self.plan.tolist()):
            token, place = divmod(number, len(self.levels))
            self.widths[token + 1 :, coefficient] /= self.levels[place]
            self.shares[number] = self.widths[token + 1, coefficient]

    def encode(self, images: "Tensor") -> NDArray[np.uint16]:
        sums = features(images.numpy()).astype(np.float64) @ self.basis.T - self.middle
        rest = list(map(np.interp, sums.T * self.step, self.values, self.places))
        base = np.cumprod([1, *self.levels[:-1]])
        tokens = np.zeros((len(self.plan) // len(base), len(images)))
        for number, coefficient in enumerate(self.plan.tolist()):
            token, place = divmod(number, len(base))
            rest[coefficient] *= self.levels[place]
            digit = np.minimum(np.floor(rest[coefficient]), self.levels[place] - 1)
            rest[coefficient] -= digit
            tokens[token] += digit * base[place]
        return tokens.T.astype(np.uint16)

    def decode(
        self, tokens: Prefixes, seeds: Any = (), timesteps: int = 1, guidance_scale: float = 1
    ) -> "Tensor":
        """There is no noise: seeds, steps and guidance change nothing."""
        import torch

        whole = np.round(self.coefficients(tokens) * (self.step / FINE * 2**BASIS_BITS))
        unit = np.float32(FINE / 2**BASIS_BITS)
        mean = (self.mean * scales(self.image_size) ** 2).astype(np.float32)
        images = []
        for start in range(0, len(tokens), MULTIPLIED):
            sums = whole[start : start + MULTIPLIED] @ self.basis
            for first in range(0, len(sums), AT_ONCE):
                parts = sums[first : first + AT_ONCE].astype(np.float32) * unit + mean
                images.append(pictures(parts, self.image_size))
        return torch.from_numpy(np.concatenate(images))

    def coefficients(self, tokens: Prefixes) -> NDArray[np.float64]:
        """What B prefixes say of the coefficients, [B, coefficients]: the middle of what fits; 0 of
        what they say nothing of."""
        lengths = np.array([len(row) for row in tokens])
        # a token that is missing adds nothing
        left = np.zeros((self.tokens_per_image, len(tokens)), np.int32)
        for row, given in enumerate(tokens):
            left[: len(given), row] = given
        low = np.zeros((len(self.values), len(tokens)))
        told = self.plan[: lengths.max() * len(self.levels)].tolist()
        for number, coefficient in enumerate(told):
            token, place = divmod(number, len(self.levels))
            quotient = left[token] // self.levels[place]  # a third of the time of np.divmod
            low[coefficient] += (left[token] - quotient * self.levels[place]) * self.shares[number]
            left[token] = quotient
        width = self.widths[lengths].T
        middle = list(map(np.interp, low + width / 2, self.places, self.values))
        return np.where(width < 1, middle, 0.0).T


def save(folder: Path, basis: NDArray[np.float64], **arrays: NDArray[Any]) -> None:
    """Write a codec: `basis` [coefficients, features] of whole images times their scales."""
    from safetensors.numpy import save_file

    step = np.abs(basis).max() / (2**BASIS_BITS - 1)
    whole = np.round(basis / step).astype(np.int16)
    with atomic(folder / WEIGHTS) as temporary:
        save_file({"basis": whole, "step": np.array(step), **arrays}, temporary)
