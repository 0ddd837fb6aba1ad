"""Whether a codec knows images like these: a miniature turns what it never saw into what it was trained on.

Judged cheaply, on a few images from all over the data set: the error of their reconstructions
beside that of the codec's own held-out images, which its card holds. A codec without a card, such
as a real FlexTok, is not judged.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from imagegram.codec import Codec
from imagegram.files import read_json, write_json

JUDGED = 32  # images
TIMESTEPS = 4  # of the reconstructions that are judged: an eighth of the work of the codec's own ten with guidance
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

    def warning(self) -> str:
        """One line with the remedy, where half the images are rebuilt worse than 95 % of the codec's own; else ""."""
        if self.error <= self.own_most:
            return ""
        return (
            f"warning: the codec {self.codec} does not know images like these: it rebuilds {self.dataset} with an "
            f"error of {self.error:.0f} levels of 255, its own held-out images with {self.own_error:.0f} (95 % below "
            f"{self.own_most:.0f}), so that all pictures will look like what it was trained on. Train one for them: "
            f".venv/bin/python train_tiny_flextok.py --dataset {self.dataset} --start tiny --out data/my_codec, then "
            "--codec data/my_codec"
        )


def reconstruction_errors(codec: Codec, images: Tensor, tokens: NDArray[np.uint16]) -> NDArray[np.float64]:
    """Root mean squared error [n] of the reconstructions of images uint8 [n, 3, S, S] from all their tokens [n, L], in
    levels of 255; in few steps, without guidance, from the noise of seeds 0 to n - 1."""
    rebuilt = codec.decode(list(tokens), list(range(len(tokens))), TIMESTEPS, 1.0)
    difference = rebuilt.double() - images.double()
    return difference.square().mean((1, 2, 3)).sqrt().numpy()


def judge(codec: Codec, dataset: str, images: Tensor, tokens: NDArray[np.uint16]) -> Familiarity | None:
    """Judge images uint8 [n, 3, S, S] with tokens [n, L]; None where the codec has no card."""
    if codec.own_error is None or not len(images):
        return None
    errors = reconstruction_errors(codec, images[:JUDGED], tokens[:JUDGED])
    median, most = codec.own_error
    return Familiarity(codec.name, dataset, len(errors), round(float(np.median(errors)), 2), median, most)


def save(found: Familiarity, token_folder: Path) -> None:
    """Keep what was found with the tokens."""
    write_json(token_folder / FILE, asdict(found))


def warning_of(token_folder: Path) -> str:
    """The line for tokens that were made with a codec that does not know their images, "" for others."""
    file = token_folder / FILE
    return Familiarity(**read_json(file)).warning() if file.exists() else ""
