"""What the tokenizer keeps of real images: how far rebuilt ones are off, and whether their classes
are still told.

"Real" means "as the tokenizer rebuilds them" in all other figures: a tokenizer that keeps little
makes that a low bar. The classifier is a linear discriminant on edges and colours, trained on
originals of the index in a second: to compare two kinds of images and not to be good at either.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from imagegram.files import read_json, write_json
from imagegram.index.folder import Index
from imagegram.metrics.coherence import SEED, Classifiers, chosen_rows
from imagegram.metrics.held_out import HeldOut
from imagegram.metrics.intervals import Figure, from_json, mean, rate, to_json
from imagegram.metrics.registry import FIGURES_VERSION

MOST_TRAINING = 2000  # originals that train the classifier
CELLS = 4  # on a side of an image, each with its histogram of edges and its mean colour
ANGLES = 8  # of edges
AT_ONCE = 16  # pictures: 0.25 GB where they have 256 x 256 pixels
MOST_ERROR = 0.5  # of the error of a flat picture in the image's mean colour: above, little is kept
LEAST_TOLD = 0.85  # of what is told of the originals, by the interval's upper end: likewise
Origin = tuple[int, int]  # number of the data set, ordinal
Read = Callable[[Origin], Image.Image | None]  # an original, None where it is gone
Pixels = NDArray[np.float64]


@dataclass(frozen=True)
class Fidelity:
    """Figures of rebuilt held-out images."""

    error: Figure  # root mean square, in grey levels of 255
    flat_error: Figure  # that of pictures of one colour
    told: Figure | None  # the share whose class a classifier tells; None: there are no classes
    told_of_originals: Figure | None

    @property
    def is_little(self) -> bool:
        """Whether the tokenizer keeps so little that figures of generated images mean little."""
        is_far_off = self.error.low > MOST_ERROR * self.flat_error.value
        if self.told is None or self.told_of_originals is None:
            return is_far_off
        return is_far_off or self.told.high < LEAST_TOLD * self.told_of_originals.value

    def __str__(self) -> str:
        flat = f"{self.flat_error.value:.1f} without any detail"
        error = f"off by {self.error.value:.1f} of 255 grey levels ({flat})"
        if self.told is None or self.told_of_originals is None:
            return error
        return (
            f"{error}; a classifier tells {self.told:%} of their classes, "
            f"{self.told_of_originals:%} of the originals'"
        )


def open_fidelity(
    index: Index, held_out: HeldOut, classifiers: Classifiers, original: Read
) -> Fidelity | None:
    """Measure what the tokenizer keeps, once for an index; None where the originals are gone."""
    path = _file(index)
    key = {"version": FIGURES_VERSION, "classifiers": json.loads(classifiers.key)}
    key["most"] = MOST_TRAINING
    if path.exists() and read_json(path)["key"] == key:
        return read_fidelity(index)
    chosen = chosen_rows(held_out, np.random.default_rng(SEED))
    origins = [tuple(origin) for origin in held_out.origins[chosen].tolist()]
    bar = tqdm(origins, desc="reading held-out originals", unit="img", delay=3)
    there = {i: picture for i, origin in enumerate(bar) if (picture := original(origin))}
    if not there:
        return None
    found = _measure(index, held_out.classes[chosen], there, classifiers.real_images, original)
    write_json(path, {"key": key, "figures": to_json(vars(found))})
    return found


def read_fidelity(index: Index) -> Fidelity | None:
    """What `open_fidelity` kept; None where it did not."""
    path = _file(index)
    kept = read_json(path) if path.exists() else {}
    if kept.get("key", {}).get("classifiers", {}).get("index") != index.identity:
        return None
    return Fidelity(**from_json(kept["figures"]))


def _file(index: Index) -> Path:
    return index.path.parent / f"{index.path.name}-fidelity.json"


def _measure(
    index: Index,
    labels: NDArray[np.int64],
    there: dict[int, Image.Image],
    rebuilt: Tensor,
    original: Read,
) -> Fidelity:
    """Of images `rebuilt` uint8 [n, 3, S, S] with `labels` [n]; their originals by row: `there`."""
    rng = np.random.default_rng(SEED)
    rows, real = list(there), list(there.values())
    again = [Image.fromarray(picture.permute(1, 2, 0).numpy()) for picture in rebuilt[rows]]
    errors = []
    for one, other in zip(real, again, strict=True):
        pixels, others = _pixels([one, other])
        flat = pixels.mean((0, 1), keepdims=True)
        errors.append([np.sqrt(np.square(off - pixels).mean()) for off in (others, flat)])
    error, flat_error = (mean(column, rng) for column in np.array(errors).T)
    told = told_of_originals = None
    classes = labels[rows]
    if len(np.unique(classes)) > 1:
        chosen = np.sort(rng.permutation(index.num_images)[:MOST_TRAINING])
        origins = tqdm(index.images[chosen, :2].tolist(), "reading originals", unit="img", delay=3)
        known = {
            row: picture
            for row, origin in zip(chosen, origins, strict=True)
            if (picture := original(tuple(origin)))
        }
        if known:
            answers = tell(list(known.values()), index.classes[list(known)], [*real, *again])
            right = np.split(answers == np.tile(classes, 2), 2)
            told_of_originals, told = (rate(part) for part in right)
    return Fidelity(error, flat_error, told, told_of_originals)


def _pixels(pictures: Iterable[Image.Image]) -> Pixels:
    return np.stack([np.asarray(picture.convert("RGB"), np.float64) for picture in pictures])


def tell(
    training: Sequence[Image.Image], labels: NDArray[np.int64], pictures: Sequence[Image.Image]
) -> NDArray[np.int64]:
    """The classes [m] of pictures, by a linear discriminant of `training` with labels [n]."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    def seen(images: Sequence[Image.Image]) -> Pixels:
        """A few at a time: as numbers, thousands of large pictures take too much memory."""
        firsts = range(0, len(images), AT_ONCE)
        parts = (_pixels(images[first : first + AT_ONCE]) for first in firsts)
        return np.concatenate([edges_and_colours(part) for part in parts])

    classifier = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
    return classifier.fit(seen(training), labels).predict(seen(pictures))


def edges_and_colours(images: Pixels) -> Pixels:
    """Images [n, S, S, 3] in 0 ... 255 -> features [n, CELLS ** 2 * (ANGLES + 3)]: in each cell a
    histogram of the directions of edges, weighted by their strength (Dalal & Triggs, 2005), and the
    mean colour."""
    n, side = images.shape[:2]
    down, right = np.gradient(images.mean(3) / 255, axis=(1, 2))
    strength = np.hypot(down, right)
    angle = np.floor((np.arctan2(down, right) / (2 * np.pi) + 0.5) * ANGLES).astype(int) % ANGLES
    edges = np.where(angle[..., None] == np.arange(ANGLES), strength[..., None], 0.0)
    cells = np.array_split(np.arange(side), CELLS)
    maps = np.concatenate([edges, images / 255], 3)
    means = [maps[:, a][:, :, b].mean((1, 2)) for a in cells for b in cells]
    return np.stack(means, 1).reshape(n, -1)
