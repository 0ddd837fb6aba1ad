"""A linear codec fitted to a data set's own training images: no network, no noise, nothing painted.

An image is brightness at every pixel and two colour differences at every second one. The main axes of the training
images (PCA) turn that into coefficients, and a coefficient is told by digits: a curve spreads its values over 0 to 1,
and the digits are those of the place in there, as in a decimal number. They are handed out one by one to the
coefficient whose error is largest, so that the first tokens tell what changes the image most, every prefix decodes, and
what was decoded has the tokens that it was decoded from (where no pixel was cut to 0 or 255).

All sums are of whole numbers that float64 holds exactly: an image has the same tokens, to the bit, whatever its batch
and the threads. linear_fit.py fits it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from imagegram.cli import UserError
from imagegram.files import atomic, sha256

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS = "linear.safetensors"
BASIS_BITS = 15  # of a number of the basis, beside its sign
FINE = 2.0**-10  # a coefficient is a multiple of that when it is decoded
FORMAT = 1  # of the file and of what its numbers mean


def features(images: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Images uint8 [n, 3, S, S] -> whole numbers [n, 3 S^2 / 2]: R + G + B of every pixel, then R - B and R - 2 G + B
    of every square of four. Times `scales` their axes are at right angles and of length 1."""
    red, green, blue = images.astype(np.int32).swapaxes(0, 1)
    differences = [_squares(red - blue), _squares(red - 2 * green + blue)]
    return np.concatenate([part.reshape(len(images), -1) for part in (red + green + blue, *differences)], 1)


def _squares(plane: NDArray[np.int32]) -> NDArray[np.int32]:
    n, size, _ = plane.shape
    return plane.reshape(n, size // 2, 2, size // 2, 2).sum((2, 4), dtype=np.int32)


def scales(size: int) -> NDArray[np.float64]:
    """See `features`."""
    return np.repeat([3**-0.5, 8**-0.5, 24**-0.5], [size**2, size**2 // 4, size**2 // 4])


def pictures(parts: NDArray[np.float64], size: int) -> NDArray[np.uint8]:
    """The images uint8 [n, 3, S, S] of features times their scales squared, [n, 3 S^2 / 2]."""
    grey = parts[:, : size**2].reshape(-1, size, size)
    halves = parts[:, size**2 :].reshape(-1, 2, size // 2, size // 2).repeat(2, 2).repeat(2, 3)
    first, second = halves[:, 0], halves[:, 1]
    images = np.stack([grey + first + second, grey - 2 * second, grey - first + second], 1)
    return images.round().clip(0, 255).astype(np.uint8)


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
            raise UserError(f"the linear codec of {folder} is gone or damaged ({error}): tokenize anew") from None
        self.name = name
        self.revision = sha256(folder / WEIGHTS)[:16]
        self.levels = tuple(arrays["levels"].tolist())
        self.vocab_size = int(np.prod(self.levels))
        self.plan = arrays["plan"]  # [digits]: the coefficient that each digit tells
        self.tokens_per_image = len(self.plan) // len(self.levels)
        self.mean = arrays["mean"]  # int32, of the features
        self.image_size = round((len(self.mean) / 1.5) ** 0.5)
        self.values, self.places = arrays["values"], arrays["places"]  # [coefficients, knots]: the curves
        self.step = float(arrays["step"])  # what 1 of the basis means
        self.basis = arrays["basis"].astype(np.float64)  # whole numbers [coefficients, features]

    def encode(self, images: "Tensor") -> NDArray[np.uint16]:
        """Images uint8 [B, 3, S, S] -> tokens [B, tokens_per_image]."""
        sums = (features(images.numpy()) - self.mean).astype(np.float64) @ self.basis.T
        rest = np.stack([np.interp(*row) for row in zip(sums.T * self.step, self.values, self.places, strict=True)])
        base = np.cumprod([1, *self.levels[:-1]])
        tokens = np.zeros((len(self.plan) // len(base), len(images)), np.int64)
        for number, coefficient in enumerate(self.plan.tolist()):
            token, place = divmod(number, len(base))
            rest[coefficient] *= self.levels[place]
            digit = np.floor(rest[coefficient]).clip(0, self.levels[place] - 1)
            rest[coefficient] -= digit
            tokens[token] += digit.astype(np.int64) * base[place]
        return tokens.T.astype(np.uint16)

    def decode(
        self,
        tokens: Sequence[NDArray[np.uint16]],
        seeds: Sequence[int] = (),
        timesteps: int = 1,
        guidance_scale: float = 1.0,
    ) -> "Tensor":
        """B prefixes of tokens -> uint8 [B, 3, S, S]. There is no noise: seeds, steps and guidance change nothing."""
        import torch

        coefficients = self.coefficients(tokens)
        whole = np.round(coefficients * (self.step / FINE * 2**BASIS_BITS))
        squared = scales(self.image_size) ** 2
        parts = whole @ self.basis * (FINE / 2**BASIS_BITS) + self.mean * squared
        return torch.from_numpy(pictures(parts, self.image_size))

    def coefficients(self, tokens: Sequence[NDArray[np.uint16]]) -> NDArray[np.float64]:
        """What B prefixes of tokens say of the coefficients, [B, coefficients]: the middle of what fits; 0 of what
        they say nothing of."""
        low = np.zeros((len(self.values), len(tokens)))
        width = np.ones_like(low)
        lengths = np.array([len(row) for row in tokens])
        left = np.zeros((self.tokens_per_image, len(tokens)), np.int64)
        for row, given in enumerate(tokens):
            left[: len(given), row] = given
        for number, coefficient in enumerate(self.plan[: lengths.max() * len(self.levels)].tolist()):
            token, place = divmod(number, len(self.levels))
            left[token], digit = np.divmod(left[token], self.levels[place])
            known = lengths > token
            width[coefficient, known] /= self.levels[place]
            low[coefficient, known] += digit[known] * width[coefficient, known]
        middle = [np.interp(*row) for row in zip(low + width / 2, self.places, self.values, strict=True)]
        return np.where(width < 1, middle, 0.0).T


def save(folder: Path, basis: NDArray[np.float64], **arrays: NDArray[Any]) -> None:
    """Write a codec: `basis` [coefficients, features] of whole images times their scales; the rest as above."""
    from safetensors.numpy import save_file

    step = np.abs(basis).max() / (2**BASIS_BITS - 1)
    whole = np.round(basis / step).astype(np.int16)
    with atomic(folder / WEIGHTS) as temporary:
        save_file({"basis": whole, "step": np.array(step), **arrays}, temporary)
