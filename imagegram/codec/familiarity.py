"""Whether a codec knows images like these, and keeps anything of them.

A miniature turns what it never saw into what it was trained on, and one that was hardly trained
knows nothing at all. Judged on a few images from all over the data set: the error of their
reconstructions beside that of the codec's own held-out images, which its card holds, and of flat
pictures of their mean colour; and the codes that they use. Without a card nothing is judged.
"""

import contextlib
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imagegram.codec import Codec
from imagegram.codec.decoding import Decoder
from imagegram.data.dataset import ImageDataset, permutation
from imagegram.data.preprocess import preprocess
from imagegram.files import read_json

JUDGED = 32  # images
TIMESTEPS = 4  # an eighth of the work of the codec's own ten with guidance
HARDLY = 0.8  # of the error of a flat picture: what is no better keeps next to nothing
FEW_CODES = 1 / 8  # of the images: so few different codes at a position tell them hardly apart
ENOUGH = 16  # different images, to count codes
CODES = 512  # of a position of the miniatures: more images have no more of them
FILE = "familiarity.json"  # in a token folder


@dataclass(frozen=True)
class Familiarity:
    """Typical errors of reconstructions, in levels of 255."""

    codec: str
    dataset: str
    images: int
    error: float  # median over the images
    own_error: float  # median over the codec's own held-out images
    own_most: float  # 95 % of these are below
    flat: float = 0.0  # median of the errors of flat pictures; 0: not measured
    different: int = 0  # images
    codes: float = 0.0  # different ones at a position, median over the positions

    def warning(self) -> str:
        """One line with the remedy; "" where the codec knows the images, and keeps something of
        them."""
        if self.error <= self.own_most:
            fault = too_little(self.error, self.flat, self.codes, self.different)
            if not fault:
                return ""
            return (
                f"warning: the codec {self.codec} keeps next to nothing: {fault}: train it longer, "
                f"or tokenize {self.dataset} with another codec"
            )
        return (
            f"warning: the codec {self.codec} does not know images like these: it rebuilds "
            f"{self.dataset} with an error of {self.error:.0f} levels of 255, its own held-out "
            f"images with {self.own_error:.0f} (95 % below {self.own_most:.0f}), so that all "
            "pictures will look like what it was trained on. Train one for them: .venv/bin/python "
            f"train_tiny_flextok.py --dataset {self.dataset} --start tiny --out data/my_codec, "
            "then --codec data/my_codec"
        )


def reconstruction_errors(
    codec: Codec, images: Tensor, tokens: NDArray[np.uint16]
) -> NDArray[np.float64]:
    """Root mean squared error [n] of the reconstructions of images uint8 [n, 3, S, S] from their
    tokens [n, L], in levels of 255; in few steps, without guidance, from the seeds 0 to n - 1."""
    rebuilt = Decoder(codec, TIMESTEPS, 1.0)(tokens)
    return (rebuilt.double() - images.double()).square().mean((1, 2, 3)).sqrt().numpy()


def flat_errors(images: Tensor) -> NDArray[np.float64]:
    """The same [n] of a flat picture of each image's mean colour."""
    return images.double().var((2, 3), correction=0).mean(1).sqrt().numpy()


def typical(errors: NDArray[np.float64]) -> float:
    """The median, to two digits."""
    return round(float(np.median(errors)), 2)


def codes_in_use(tokens: NDArray[np.uint16]) -> list[int]:
    """How many different codes tokens [n, L] have at each of the L positions.

    >>> codes_in_use(np.array([[1, 2], [1, 3]], np.uint16))
    [1, 2]
    """
    return [len(np.unique(column)) for column in tokens.T]


def too_little(error: float, flat: float, codes: float, images: int) -> str:
    """What shows that a codec keeps next to nothing of `images` different images, or "".

    >>> too_little(10, 61, codes=2, images=32)
    '32 different images have 2 different codes at a position'
    """
    if flat and error > HARDLY * flat:
        beside = "above" if error > flat else "hardly below"
        return (
            f"its error of {error:.0f} levels of 255 is {beside} the {flat:.0f} of flat pictures "
            "of each image's mean colour"
        )
    if images >= ENOUGH and codes < FEW_CODES * min(images, CODES):
        return f"{images} different images have {codes:g} different codes at a position"
    return ""


def judge(codec: Codec, dataset: ImageDataset) -> Familiarity | None:
    """What the codec makes of a few images; None without a card, or where none can be read."""
    if codec.own_error is None:
        return None
    few = []
    for ordinal in dataset.ordinals[permutation(len(dataset))[:JUDGED]].tolist():
        # faults are counted when it is tokenized
        with contextlib.suppress(Exception), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            few.append(preprocess(dataset.read(ordinal)[0], codec.image_size))
    if not few:
        return None
    images = torch.stack(few)
    tokens = codec.encode(images)
    return Familiarity(
        codec.name,
        dataset.name,
        len(images),
        typical(reconstruction_errors(codec, images, tokens)),
        *codec.own_error,
        flat=typical(flat_errors(images)),
        different=len(torch.unique(images, dim=0)),
        codes=float(np.median(codes_in_use(tokens))),
    )


def warning_of(token_folder: Path) -> str:
    """The warning that is kept with tokens, "" where there is none."""
    file = token_folder / FILE
    return Familiarity(**read_json(file)).warning() if file.exists() else ""
