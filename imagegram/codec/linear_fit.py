"""Fitting the linear codec to the training images of a data set: seconds, once, kept beside the
tokens."""

import functools
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dctn, idctn
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from imagegram.artifact import Artifact, changes
from imagegram.cli import UserError
from imagegram.codec.linear import FORMAT, WEIGHTS, LinearCodec, features, save, scales
from imagegram.codec.sizes import Sizes, linear_sizes
from imagegram.data.dataset import ImageDataset, sample
from imagegram.data.loading import load_images, worker_errors_as_user_errors
from imagegram.files import turn

FOLDER = "codec"  # in a token folder
MOST_BYTES = 2**28  # of the images that it is fitted to, as float32; of more a sample
MOST_AXES = 1024
FEW = 400  # images, whose axes are to equal parts their own and those of their frequencies
PASSES = 4  # of the power method
SPARE = 16  # axes more than are kept
KNOTS = 128  # of a curve
SMOOTH = 2.0  # standard deviation of the density's smoothing, in knots
FLOOR = 1e-4  # of the density's peak: where no training image was, an image may be
AT_ONCE = 256  # images
bar = functools.partial(tqdm, delay=2)  # seconds: most steps are shorter, and show nothing
Floats = NDArray[np.float64]


def open_linear(
    name: str, datasets: Sequence[ImageDataset], share: float, out: Path, workers: int = -1
) -> LinearCodec:
    """The linear codec in `out`, which is fitted to the images of `datasets` that are not held out
    unless it is there. Of several processes one fits, the others wait for it."""
    started = time.monotonic()
    sizes = linear_sizes(name)
    record: dict[str, Any] = {
        "format": FORMAT,
        "fingerprint": " ".join(dataset.fingerprint for dataset in datasets),
        "images": sum(map(len, datasets)),
        "held_out_share": share,
        "image_size": sizes.image_size,
        "tokens": sizes.tokens_per_image,
        "levels": list(sizes.levels),
    }
    place = Artifact(out, "linear")
    place.claim()
    with turn(out):
        before = place.record()
        if before and (changed := changes(before, record)):
            raise UserError(
                f"{out} is a linear codec fitted to something else "
                f"({', '.join(changed.values())}), and tokens may be its own: choose another "
                "folder with --out"
            )
        if not before:
            _fit_and_save(
                training_images(datasets, share, sizes.image_size, workers), sizes, out, started
            )
            place.finish(record)
    return LinearCodec(out, name)


def copy_linear(folder: Path, out: Path) -> LinearCodec:
    """A copy of a fitted one in `out`, so that the tokens of other images keep it."""
    place = Artifact(out, "linear")
    record = Artifact(folder, "linear").record()
    assert record is not None
    place.claim()
    with turn(out):
        if folder.resolve() != out.resolve() and not place.record():
            shutil.copyfile(folder / WEIGHTS, out / WEIGHTS)
            place.finish(record)
    return LinearCodec(out, "linear")


def _fit_and_save(images: NDArray[np.uint8], sizes: Sizes, out: Path, started: float) -> None:
    if len(images) < 2:
        raise UserError(
            "the linear codec is fitted to training images, and fewer than 2 can be read"
        )
    with threadpool_limits(1, "blas"):  # sums in the same order, whatever the machine's cores
        arrays = fit(images, sizes)
    save(out, **arrays)
    print(
        f"a linear codec was fitted to {len(images):,} training images in "
        f"{time.monotonic() - started:.0f} s: {len(arrays['basis'])} axes, no network; {out}"
    )


def training_images(
    datasets: Sequence[ImageDataset], share: float, size: int, workers: int = -1
) -> NDArray[np.uint8]:
    """The readable images that are not held out, or a random sample of them, uint8 [n, 3, S, S]."""
    training = [data.ordinals[~data.held_out(data.ordinals, share)] for data in datasets]
    ends = np.cumsum([len(ordinals) for ordinals in training])
    chosen = sample(int(ends[-1]), MOST_BYTES // (4 * size**2 * 3 // 2))
    few = np.split(np.concatenate(training)[chosen], np.searchsorted(chosen, ends[:-1]))
    found = []
    progress = bar(total=len(chosen), desc="reading images to fit", unit="img")
    with progress, worker_errors_as_user_errors():
        for dataset, ordinals in zip(datasets, few, strict=True):
            for _, image, _, _ in load_images(dataset, ordinals, size, workers):
                progress.update()
                if image is not None:
                    found.append(image)
    return np.stack(found) if found else np.zeros((0, 3, size, size), np.uint8)


def fit(images: NDArray[np.uint8], sizes: Sizes) -> dict[str, Any]:
    """What `save` writes, of images uint8 [n, 3, S, S]."""
    size = sizes.image_size
    levels = np.tile(sizes.levels, sizes.tokens_per_image)  # of all digits
    parts = np.array_split(images, -(-len(images) // AT_ONCE))
    mean = np.mean([features(part).mean(0) for part in parts], 0).round().astype(np.int32)
    scale = scales(size).astype(np.float32)

    # 1) The main axes, among the cosine waves of each plane.
    waves = np.empty((len(images), len(mean)), np.float32)
    for start in bar(range(0, len(images), AT_ONCE), desc="cosine waves", unit="batch"):
        part = slice(start, start + AT_ONCE)
        waves[part] = _planes((features(images[part]) - mean) * scale, size, dctn)
    axes, variances = main_axes(waves, min(len(levels), MOST_AXES, len(mean) - SPARE))
    found = (waves @ axes).astype(np.float64)

    # 2) A curve for each, and the digits.
    curves = [curve(column) for column in found.T]
    basis = _planes(axes.T.astype(np.float64), size, idctn) * scales(size)
    used, plan = np.unique(hand_out(found, curves, variances, levels), return_inverse=True)
    values, places = (np.stack(part)[used] for part in zip(*curves, strict=True))
    coefficients = {"basis": basis[used], "values": values, "places": places}
    return coefficients | {"mean": mean, "plan": plan, "levels": np.array(sizes.levels)}


def _planes(rows: NDArray[Any], size: int, transform: Any) -> NDArray[Any]:
    """The cosine transform or its inverse of the three planes of features [n, 3 S^2 / 2] each."""
    found = []
    planes = np.split(rows, [size**2, size**2 * 5 // 4], 1)
    for plane, side in zip(planes, (size, size // 2, size // 2), strict=True):
        whole = transform(plane.reshape(-1, side, side), axes=(1, 2), norm="ortho")
        found.append(whole.reshape(len(rows), -1))
    return np.concatenate(found, 1)


def main_axes(waves: NDArray[np.float32], count: int) -> tuple[NDArray[np.float32], Floats]:
    """Orthonormal axes [D, count] along which images [n, D] vary most, and their variances.

    Few images tell little of others: their covariance is mixed with that of any picture of their
    mean frequencies (its diagonal here, Ledoit and Wolf, 2004), to the part FEW / (FEW + n). By the
    block power method, from fixed numbers.
    """
    n = len(waves)
    own = n / (FEW + n)
    power = (1 - own) * np.square(waves).mean(0)[:, None]
    axes = np.random.default_rng(0).standard_normal((waves.shape[1], count + SPARE), np.float32)
    for _ in bar(range(PASSES), desc="main axes", unit="pass"):
        axes = np.linalg.qr(own / n * (waves.T @ (waves @ axes)) + power * axes)[0]
    along = waves @ axes
    variances, turns = np.linalg.eigh(
        (own / n * (along.T @ along) + axes.T @ (power * axes)).astype(np.float64)
    )
    best = np.argsort(-variances)[:count]
    return axes @ turns[:, best].astype(np.float32), variances[best]


def curve(column: Floats) -> tuple[Floats, Floats]:
    """Values [KNOTS + 1] of a coefficient and their places from 0 to 1, so that equal steps of the
    places are cells whose errors count alike: as dense as the cube root of the density of the
    values (Panter and Dite, 1951)."""
    margin = 0.05 * np.ptp(column) + 1e-6
    counts, values = np.histogram(column, KNOTS, (column.min() - margin, column.max() + margin))
    bell = np.exp(-0.5 * (np.arange(-8, 9) / SMOOTH) ** 2)
    density = np.convolve(np.pad(counts, 8), bell, "valid")
    steps = np.cbrt(density / density.max() + FLOOR)
    return values, np.concatenate([[0], np.cumsum(steps)]) / steps.sum()


def hand_out(
    found: Floats, curves: list[tuple[Floats, Floats]], variances: Floats, levels: NDArray[np.int64]
) -> NDArray[np.int64]:
    """To which coefficient each digit goes: to the one whose mean squared error is largest, one
    after the other. Of n images: their coefficients `found` [n, C], whose `curves` and variances of
    any image [C] are given."""
    cells = np.ones(found.shape[1], np.int64)
    left = variances.copy()
    # of other images' variance to these images'
    expected = variances / np.maximum(found.var(0), 1e-9)
    plan = np.zeros(len(levels), np.int64)
    for number, several in enumerate(bar(levels.tolist(), desc="handing out digits", unit="digit")):
        best = plan[number] = int(left.argmax())
        cells[best] *= several
        column, values, places = found[:, best], *curves[best]
        cell = np.floor(np.interp(column, values, places) * cells[best])
        middle = (cell.clip(0, cells[best] - 1) + 0.5) / cells[best]
        rebuilt = np.interp(middle, places, values)
        left[best] = np.square(column - rebuilt).mean() * expected[best]
    return plan
