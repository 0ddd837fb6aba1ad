"""Arrays of pictures: IDX files (MNIST and its kin, as distributed, compressed or not) and NumPy
archives.

IDX (http://yann.lecun.com/exdb/mnist): two zero bytes, the type (8: unsigned byte), the number of
dimensions, each dimension as a big-endian uint32, then the values. Pictures [n, h, w] stand in
`...images-idx3-ubyte[.gz]`, labels [n] in `...labels-idx1-ubyte[.gz]`.
"""

import contextlib
import gzip
import posixpath
import re
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imagegram.cli import UserError
from imagegram.data.dataset import (
    IMAGE_NAMES,
    LABEL_NAMES,
    DatasetOptions,
    ImageDataset,
    digest,
    first_names,
)
from imagegram.data.labels import (
    Classes,
    choose,
    files_of_split,
    fraction_among,
    kind_of,
    labelled,
    split_of,
    text_of,
)
from imagegram.data.survey import Tree

# Names of pictures and of labels in archives, alone or beside the name of a split: x_test,
# train_labels.
ARRAY_IMAGES = ("images", "x", "data", "arr_0", "imgs", *IMAGE_NAMES)
ARRAY_LABELS = ("labels", "y", "targets", "arr_1", *LABEL_NAMES)
CLIPPED = 1.01  # times the largest number of a scale: what interpolation leaves above it
CHANNELS = (1, 3, 4)


def read_idx(name: str, tree: Tree, wanted: DatasetOptions) -> ImageDataset:
    """One split of a folder of IDX files, or one file of pictures with its labels beside it."""
    wanted.refuse(name, "a set of IDX files", "image_column", "label_column", "group")
    split, either, note = tree.of_split(name, "idx", wanted.split)
    # What is unpacked beside its .gz counts once.
    found = {
        file.removesuffix(".gz"): file
        for file in sorted(either, key=lambda file: not file.endswith(".gz"))
    }
    files = sorted(found)
    pictures = [file for file in files if "image" in file.rpartition("/")[2]]
    if len(pictures) != 1:
        what = (
            f"several IDX files of pictures ({first_names(pictures)})"
            if pictures
            else "no IDX file of pictures"
        )
        raise UserError(f"{name} holds {what} in split {split}: name one file with --dataset")
    values = _read_idx_file(tree.root / found[pictures[0]])
    if values.ndim != 3:
        raise UserError(
            f"{name}/{found[pictures[0]]} has {values.ndim} dimensions, pictures have 3"
        )
    # The labels lie beside them, or in a folder of their own.
    mate = labels_of(pictures[0])
    mates = [file for file in files if posixpath.basename(file) == posixpath.basename(mate)]
    partner = mate if mate in mates else mates[0] if mates else ""
    labels = _read_idx_file(tree.root / found[partner]) if partner else None
    for file in {*files} - {pictures[0], partner}:
        tree.leave_out("other IDX files", found[file])
    used = (
        f"images from {found[pictures[0]]}, "
        f"{f'labels from {found[partner]}' if partner else 'no file of labels'}"
    )
    return _arrays(tree, values, labels, [note, used], name=name, split=split, kind="IDX files")


def labels_of(pictures: str) -> str:
    """The file of the labels that belong to a file of pictures."""
    folder, slash, file = pictures.rpartition("/")
    return folder + slash + re.sub(r"idx3", "idx1", file.replace("images", "labels"))


def _read_idx_file(path: Path) -> NDArray[np.uint8]:
    """The values of an IDX file; UserError where it is damaged."""
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path} is damaged ({error}): download it again") from None
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] != 8:
        raise UserError(f"{path} is no IDX file of unsigned bytes: download it again")
    dimensions = data[3]
    header = 4 + 4 * dimensions
    shape = tuple(np.frombuffer(data, ">u4", dimensions, 4).tolist()) if len(data) >= header else ()
    if len(data) - header != int(np.prod(shape, dtype=np.int64)) or not shape:
        raise UserError(
            f"{path} has {len(data) - header} bytes, {shape} were announced: download it again"
        )
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def read_npz(name: str, tree: Tree, wanted: DatasetOptions) -> ImageDataset:
    """Pictures and labels of a NumPy archive, by the names of its arrays.

    Pictures are [n, h, w], [n, h, w, 1, 3 or 4] or torch's [n, 1, 3 or 4, h, w], of the scale of
    `_to_bytes`. Arrays of Python objects are pickles, which may run code: they are not read.
    """
    path, inside, split, note = _archive(name, tree, wanted)
    keys = array_names(path)
    image_key = wanted.image_column or _named(inside, ARRAY_IMAGES)
    options = {
        "image-column": image_key,
        "label-column": wanted.label_column,
        "group": wanted.group,
    }
    for option, key in options.items():
        if key not in keys and (key or option == "image-column"):
            missing = f"{name} has no array {key or 'images'!r}; it has {first_names(keys)}"
            raise UserError(f"{missing}: name one with --{option}")
    label_key = wanted.label_column or _named(
        [key for key in inside if key != image_key], ARRAY_LABELS
    )
    labels = _load(path, label_key) if label_key else None
    rest = [key for key in keys if key not in (image_key, label_key)]
    used = (
        f"images from array {image_key}, {f'labels from {label_key}' if label_key else 'no labels'}"
    )
    used += f"; not used: {first_names(rest)}" * bool(rest)
    facts: dict[str, Any] = {
        "name": name,
        "split": split,
        "kind": "a NumPy archive",
        "group": wanted.group,
    }
    values = _load(path, image_key)
    if wanted.group:
        groups = _load(path, wanted.group)
        if groups.shape != values.shape[:1]:
            raise UserError(
                f"{name}: the array {wanted.group} {list(groups.shape)} is no group for every "
                "picture"
            )
        facts["groups"] = list(map(text_of, groups.tolist()))
    return _arrays(
        tree, values, labels, [note, used], **facts, image_column=image_key, label_column=label_key
    )


def _archive(name: str, tree: Tree, wanted: DatasetOptions) -> tuple[Path, list[str], str, str]:
    """The archive, its arrays of the split that is wanted (train_images, x_test, ...), that split,
    and a note."""
    several = len(tree.files["npz"]) > 1
    split, files, note = files_of_split(name, tree.files["npz"], wanted.split if several else "")
    if len(files) > 1:
        raise UserError(
            f"{name} holds several archives ({first_names(files)}): name one with --dataset"
        )
    path = tree.root / files[0]
    keys = array_names(path)
    splits = sorted(
        {kind for key in keys if _is_named(key, ARRAY_IMAGES) and (kind := split_of(key))}
    )
    if splits and not wanted.image_column:
        split = choose(name, splits, wanted.split)
        note = f"split {split} of {', '.join(splits)} (--split)"
        keys = [key for key in keys if split_of(key) == kind_of(split)]
    elif not several:
        wanted.refuse(name, "an archive without splits", "split")
    return path, keys, split, note


def array_names(path: Path) -> list[str]:
    """The names of the arrays of an archive; UserError where it is none."""
    try:
        with zipfile.ZipFile(path) as archive:
            return [key.removesuffix(".npy") for key in archive.namelist()]
    except (OSError, zipfile.BadZipFile):
        raise UserError(
            f"{path} is damaged or no NumPy archive: download or write it again"
        ) from None


def holds_pictures(path: Path) -> bool:
    """Whether an archive has an array that is named for pictures, or cannot be read."""
    with contextlib.suppress(UserError):
        return any(_is_named(key, ARRAY_IMAGES) for key in array_names(path))
    return True


def _is_named(key: str, words: Iterable[str]) -> bool:
    return not {key.lower(), *re.split(r"[^a-z0-9]+", key.lower())}.isdisjoint(words)


def _named(keys: list[str], words: tuple[str, ...]) -> str:
    """The first key that is one of `words`, or has it beside the name of a split; "" where there is
    none."""
    return next((key for word in words for key in keys if _is_named(key, (word,))), "")


def _load(path: Path, key: str) -> NDArray[np.generic]:
    try:
        with np.load(path) as archive:
            values: NDArray[np.generic] = archive[key]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(
            f"{path}: array {key} cannot be read ({error}): download or write the archive again"
        ) from None
    return values


def _arrays(
    tree: Tree,
    values: NDArray[np.generic],
    labels: NDArray[np.generic] | None,
    notes: list[str],
    **facts: Any,
) -> ImageDataset:
    """A data set of arrays in memory: `values` [n, h, w] or [n, h, w, c]."""
    name = facts["name"]
    shape = values.shape
    if len(shape) == 4 and shape[3] not in CHANNELS and shape[1] in CHANNELS:
        notes.append("the channels come first: taken for the last axis")
        values = np.moveaxis(values, 1, 3)
    if (
        not values.size
        or values.ndim not in (3, 4)
        or values.shape[3:] not in ((), *((c,) for c in CHANNELS))
    ):
        array = f"{name}: the array {facts.get('image_column', '')} {list(shape)}"
        raise UserError(f"{array} holds no pictures: they are [n, h, w(, channels)]")
    if values.shape[3:] == (4,):
        notes.append("four channels are taken for red, green, blue and opacity")
    classes = _classes(name, labels, len(values))
    values, assumed = _to_bytes(name, values)
    pixels = values[..., 0] if values.shape[3:] == (1,) else values
    parts = [
        str(values.shape).encode(),
        values.tobytes(),
        classes.labels.tobytes(),
        *classes.identity(),
    ]
    return labelled(
        lambda i: Image.fromarray(np.asarray(pixels[i])),
        classes,
        [*notes, assumed, classes.note],
        fingerprint=digest(parts),
        left_out=tree.left_out(),
        name_of=lambda i: f"row {i}",
        **facts,
    )


def _classes(name: str, labels: NDArray[np.generic] | None, images: int) -> Classes:
    """The classes of labels [n] or [n, 1]."""
    if labels is None:
        return Classes.none(images)
    if len(labels) != images:
        raise UserError(
            f"{name} has {images} pictures and {len(labels)} labels: they do not belong together"
        )
    if labels.size != images:
        return Classes.none(
            images,
            f"labels {list(labels.shape)} are not one for each picture: no image has a label",
        )
    values = labels.reshape(-1).tolist()
    if fraction := fraction_among(values):
        return Classes.none(images, f"the labels hold {fraction}, no classes: no image has a label")
    return Classes.of(list(map(text_of, values)))


def top_of(most: float, scales: Sequence[int] = (1, 255, 65535), slack: float = CLIPPED) -> int:
    """The scale, 0 to which numbers up to `most` are; interpolation leaves some slightly above. 0:
    none of `scales`.

    >>> top_of(1.0001), top_of(1.5), top_of(70_000)
    (1, 255, 0)
    """
    return next((top for top in scales if most <= slack * top), 0)


def _to_bytes(name: str, values: NDArray[np.generic]) -> tuple[NDArray[np.uint8], str]:
    """Pictures of any numbers as uint8, and a line on what was assumed, "" for usual ones.

    Up to 1: 0 to 1, be they floats, truth values or bytes. Up to 255: 0 to 255. Beyond that whole
    numbers of 16 bits. What lies slightly above is clipped. UserError for others. What is no number
    (NaN) is 0.
    """
    if values.dtype == np.uint8 and values.max() != 1:
        return values.astype(np.uint8, copy=False), ""
    numbers = values.astype(np.float64)
    known = numbers[~np.isnan(numbers)]
    if not known.size:
        raise UserError(f"{name}: pictures without a number in them (NaN)")
    least = float(known.min())
    most = float(known.max())
    scales = (1, 255) if values.dtype.kind == "f" else (1, 255, 65535)
    slack = CLIPPED if values.dtype.kind == "f" else 1
    top = top_of(most, scales, slack)
    if least < -(slack - 1) * top or not top:
        raise UserError(
            f"{name}: pictures with values from {least:g} to {most:g}; they must lie in 0 to 1 or "
            "0 to 255, or be whole numbers up to 65535"
        )
    scaled = (np.nan_to_num(numbers).clip(0, top) * (255 / top)).round().astype(np.uint8)
    said = [f"values from {least:g} to {most:g}: taken for 0 to {top}"]
    said += [f"{numbers.size - known.size} NaN for 0"] if numbers.size > known.size else []
    said += (
        [f"{int(((known < 0) | (known > top)).sum())} beyond it are clipped"]
        if least < 0 or most > top
        else []
    )
    return scaled, ", ".join(said)
