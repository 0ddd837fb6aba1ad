"""Data sets that need no download: scikit-learn's digits, emoji, scenes drawn on the spot."""

import hashlib
import importlib.metadata
import zipfile
from pathlib import Path, PurePath

import numpy as np
from PIL import Image

from imagegram.data import scenes
from imagegram.data.contents import digest, open_picture
from imagegram.data.dataset import NO_SPLITS, DatasetOptions, ImageDataset
from imagegram.data.labels import Classes, labelled

SHIPPED = ("digits", "emoji", "shapes")
MANY_SHAPES = 20_000  # shapes are unlimited: so many when no number is asked for
EMOJI = Path(__file__).parent / "pictures" / "emoji.zip"  # made by experiments/emoji_zip.py


def open_shipped(name: str, wanted: DatasetOptions, image_size: int) -> ImageDataset:
    """One of SHIPPED; `image_size` in pixels is the resolution that shapes are drawn at."""
    wanted.refuse(f"{name} is made here", "split", "image_column", "label_column", "group")
    if name == "shapes":
        return _shapes(wanted.images or MANY_SHAPES, image_size)
    return _digits() if name == "digits" else _emoji()


def _digits() -> ImageDataset:
    # Only the file of scikit-learn is read: to import the package takes seconds.
    package = importlib.metadata.distribution("scikit-learn")
    file = package.locate_file("sklearn/datasets/data/digits.csv.gz")
    rows = np.loadtxt(str(file), delimiter=",")
    values = (rows[:, :64].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    labels = rows[:, 64].astype(int).tolist()
    return ImageDataset(
        name="digits",
        split=NO_SPLITS,
        fingerprint=_hash(values.tobytes()),
        size=len(values),
        read=lambda i: (Image.fromarray(values[i]), labels[i]),
        class_names=tuple("0123456789"),
        kind="scikit-learn's handwritten digits",
    )


def _emoji() -> ImageDataset:
    """CATEGORY/CODE_POINT-HAND.webp, 64 x 64 pixels: one thing by up to three hands is a group."""
    with zipfile.ZipFile(EMOJI) as archive:
        pictures = {name: archive.read(name) for name in archive.namelist()}
    names = list(pictures)
    return labelled(
        lambda i: open_picture(pictures[names[i]]),
        Classes.of([name.partition("/")[0] for name in names]),
        ["the licences of the pictures are in imagegram/data/pictures/LICENCES.md"],
        [PurePath(name).stem.rpartition("-")[0] for name in names],
        name="emoji",
        split=NO_SPLITS,
        fingerprint=digest(part for name in names for part in (name.encode(), pictures[name])),
        kind="emoji by three hands (Noto, Twemoji, Fluent 3-D)",
        group="code point",
        name_of=lambda i: names[i],
    )


def _shapes(images: int, image_size: int) -> ImageDataset:
    def read(i: int) -> tuple[Image.Image, int]:
        pixels, label = scenes.scene(0, i, image_size)
        return Image.fromarray(pixels), label

    drawn = _hash(b"".join(scenes.scene(0, i)[0].tobytes() for i in range(16)))
    return ImageDataset(
        "shapes", "seed 0", drawn, images, read, class_names=scenes.KINDS, kind="procedural scenes"
    )


def _hash(pixels: bytes) -> str:
    return hashlib.sha256(pixels).hexdigest()[:16]
