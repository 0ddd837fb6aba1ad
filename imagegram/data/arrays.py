"""Arrays of pictures: IDX files (MNIST and its kin, compressed or not) and NumPy archives.

IDX (http://yann.lecun.com/exdb/mnist): two zero bytes, the type (8: unsigned byte), the number of
dimensions, each dimension as a big-endian uint32, then the values. Pictures [n, h, w] stand in
`...images-idx3-ubyte[.gz]`, labels [n] in `...labels-idx1-ubyte[.gz]`.
"""

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
from imagegram.data.columns import IMAGE_NAMES, LABEL_NAMES
from imagegram.data.contents import digest
from imagegram.data.dataset import DatasetOptions, ImageDataset
from imagegram.data.labels import Classes, choose, files_of_split, kind_of, labelled, split_of
from imagegram.data.survey import Tree
from imagegram.data.wording import first_names, taken

# Names of pictures and of labels in archives, alone or beside the name of a split: x_test,
# train_labels.
ARRAY_IMAGES = ("images", "x", "data", "arr_0", "imgs", *IMAGE_NAMES)
ARRAY_LABELS = ("labels", "y", "targets", "arr_1", *LABEL_NAMES)
CLIPPED = 1.01  # times the largest number of a scale: what interpolation leaves above it
CHANNELS = (1, 3, 4)


def read_idx(name: str, tree: Tree, wanted: DatasetOptions) -> ImageDataset:
    """One split of a folder of IDX files, or one file of pictures with its labels beside it."""
    wanted.refuse(f"{name} is a set of IDX files", "image_column", "label_column", "group")
    split, either, note = tree.of_split(name, "idx", wanted)
    # What is unpacked beside its .gz counts once.
    packed = {file.removesuffix(".gz"): file for file in either if file.endswith(".gz")}
    found = packed | {file: file for file in either if not file.endswith(".gz")}
    files = sorted(found)
    pictures = [file for file in files if "image" in posixpath.basename(file)]
    if len(pictures) != 1:
        several = f"several IDX files of pictures ({first_names(pictures)})"
        what = several if pictures else "no IDX file of pictures"
        raise UserError(f"{name} holds {what} in split {split}: name one file with --dataset")
    file = found[pictures[0]]
    values = _read_idx_file(tree.root / file)
    if values.ndim != 3:
        raise UserError(f"{name}/{file} has {values.ndim} dimensions, pictures have 3")
    # The labels lie beside them, or in a folder of their own.
    mate = labels_of(pictures[0])
    mates = [file for file in files if posixpath.basename(file) == posixpath.basename(mate)]
    partner = mate if mate in mates else "".join(mates[:1])
    labels = _read_idx_file(tree.root / found[partner]) if partner else None
    for other in sorted({*files} - {pictures[0], partner}):
        tree.leave_out("other IDX files", found[other])
    notes = [note, taken(file, found.get(partner, ""), none="no file of labels")]
    return _arrays(tree, values, labels, notes, name=name, split=split, kind="IDX files")


def labels_of(pictures: str) -> str:
    """The file of the labels that belong to a file of pictures."""
    folder, slash, file = pictures.rpartition("/")
    return folder + slash + file.replace("images", "labels").replace("idx3", "idx1")


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
    found = len(data) - header
    if found != int(np.prod(shape, dtype=np.int64)) or not shape:
        raise UserError(f"{path} has {found} bytes, {shape} were announced: download it again")
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def read_npz(name: str, tree: Tree, wanted: DatasetOptions) -> ImageDataset:
    """Pictures and labels of a NumPy archive, by the names of its arrays.

    Pictures are [n, h, w], [n, h, w, 1, 3 or 4] or torch's [n, 1, 3 or 4, h, w], of the scale of
    `_to_bytes`. Arrays of Python objects are pickles, which may run code: they are not read.
    """
    path, inside, split, note = _archive(name, tree, wanted)
    keys = array_names(path)
    image_key = wanted.image_column or _named(inside, ARRAY_IMAGES) or "images"
    asked = {"image-column": image_key, "label-column": wanted.label_column, "group": wanted.group}
    for option, key in asked.items():
        if key and key not in keys:
            missing = f"{name} has no array {key!r}; it has {first_names(keys)}"
            raise UserError(f"{missing}: name one with --{option}")
    others = [key for key in inside if key != image_key]
    label_key = wanted.label_column or _named(others, ARRAY_LABELS)
    labels = _load(path, label_key) if label_key else None
    rest = [key for key in keys if key not in (image_key, label_key)]
    values = _load(path, image_key)
    groups = _load(path, wanted.group) if wanted.group else None
    if groups is not None and groups.shape != values.shape[:1]:
        array = f"{name}: the array {wanted.group} {list(groups.shape)}"
        raise UserError(f"{array} is no group for every picture")
    return _arrays(
        tree,
        values,
        labels,
        [note, taken(f"array {image_key}", label_key, rest)],
        name=name,
        split=split,
        kind="a NumPy archive",
        image_column=image_key,
        label_column=label_key,
        group=wanted.group,
        groups=None if groups is None else groups.tolist(),
    )


def _archive(name: str, tree: Tree, wanted: DatasetOptions) -> tuple[Path, list[str], str, str]:
    """The archive, its arrays of the wanted split (train_images, x_test), the split, and a note."""
    several = len(tree.files["npz"]) > 1
    asked = wanted if several else DatasetOptions()
    split, files, note = files_of_split(name, tree.files["npz"], asked)
    if len(files) > 1:
        archives = f"{name} holds several archives ({first_names(files)})"
        raise UserError(f"{archives}: name one with --dataset")
    path = tree.root / files[0]
    keys = array_names(path)
    splits = sorted({split_of(key) for key in image_arrays(path)} - {""})
    if splits and not wanted.image_column:
        split, note = choose(name, splits, wanted.split)
        keys = [key for key in keys if split_of(key) == kind_of(split)]
    elif not several:
        wanted.refuse(f"{name} is an archive without splits", "split")
    return path, keys, split, note


def array_names(path: Path) -> list[str]:
    """The names of the arrays of an archive; UserError where it is none."""
    try:
        with zipfile.ZipFile(path) as archive:
            return [key.removesuffix(".npy") for key in archive.namelist()]
    except (OSError, zipfile.BadZipFile):
        fault = f"{path} is damaged or no NumPy archive"
        raise UserError(f"{fault}: download or write it again") from None


def image_arrays(path: Path) -> list[str]:
    """The arrays of an archive that are named for pictures."""
    return [key for key in array_names(path) if _is_named(key, ARRAY_IMAGES)]


def _is_named(key: str, words: Iterable[str]) -> bool:
    return not {key.lower(), *re.split(r"[^a-z0-9]+", key.lower())}.isdisjoint(words)


def _named(keys: list[str], words: tuple[str, ...]) -> str:
    """The first key that is one of `words`, or has it beside the name of a split; "" for none."""
    return next((key for word in words for key in keys if _is_named(key, (word,))), "")


def _load(path: Path, key: str) -> NDArray[np.generic]:
    try:
        with np.load(path) as archive:
            return np.asarray(archive[key])
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        fault = f"{path}: array {key} cannot be read ({error})"
        raise UserError(f"{fault}: download or write the archive again") from None


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
    channels = values.shape[3:]
    if not values.size or values.ndim < 3 or channels not in [(), *((c,) for c in CHANNELS)]:
        array = f"{name}: the array {facts.get('image_column', '')} {list(shape)}"
        raise UserError(f"{array} holds no pictures: they are [n, h, w(, channels)]")
    if channels == (4,):
        notes.append("four channels are taken for red, green, blue and opacity")
    classes = _classes(name, labels, len(values))
    values, assumed = _to_bytes(name, values)
    pixels = values[..., 0] if channels == (1,) else values
    parts = [str(values.shape).encode(), values.tobytes(), classes.labels.tobytes()]
    return labelled(
        lambda i: Image.fromarray(np.asarray(pixels[i])),
        classes,
        [*notes, assumed, classes.note],
        fingerprint=digest([*parts, *classes.identity()]),
        left_out=tree.left_out(),
        name_of=lambda i: f"row {i}",
        **facts,
    )


def _classes(name: str, labels: NDArray[np.generic] | None, images: int) -> Classes:
    """The classes of labels [n] or [n, 1]."""
    if labels is None:
        return Classes.none(images)
    if len(labels) != images:
        numbers = f"{name} has {images} pictures and {len(labels)} labels"
        raise UserError(f"{numbers}: they do not belong together")
    if labels.size != images:
        fault = f"labels {list(labels.shape)} are not one for each picture"
        return Classes.none(images, f"{fault}: no image has a label")
    return Classes.of_cells(labels.reshape(-1).tolist(), "the labels hold")


def top_of(most: float, scales: Sequence[int] = (1, 255, 65535), slack: float = CLIPPED) -> int:
    """The first of `scales` that numbers up to `most` are of, some slightly above; 0: none.

    >>> top_of(1.0001), top_of(1.5), top_of(70_000)
    (1, 255, 0)
    """
    return next((top for top in scales if most <= slack * top), 0)


def _to_bytes(name: str, values: NDArray[np.generic]) -> tuple[NDArray[np.uint8], str]:
    """Pictures of any numbers as uint8, and a line on what was assumed, "" for usual ones.

    Up to 1: 0 to 1, be they floats, truth values or bytes. Up to 255: 0 to 255. Beyond that whole
    numbers of 16 bits. Floats slightly above are clipped, NaN is 0. UserError for others.
    """
    if values.dtype == np.uint8 and values.max() != 1:
        return values.astype(np.uint8, copy=False), ""
    numbers = values.astype(np.float64)
    known = numbers[~np.isnan(numbers)]
    if not known.size:
        raise UserError(f"{name}: pictures without a number in them (NaN)")
    least, most = float(known.min()), float(known.max())
    scales, slack = ((1, 255), CLIPPED) if values.dtype.kind == "f" else ((1, 255, 65535), 1)
    top = top_of(most, scales, slack)
    said = f"values from {least:g} to {most:g}"
    if least < -(slack - 1) * top or not top:
        remedy = "they must lie in 0 to 1 or 0 to 255, or be whole numbers up to 65535"
        raise UserError(f"{name}: pictures with {said}; {remedy}")
    scaled = (np.nan_to_num(numbers).clip(0, top) * (255 / top)).round().astype(np.uint8)
    said += f": taken for 0 to {top}"
    if holes := numbers.size - known.size:
        said += f", {holes} NaN for 0"
    if beyond := int(((known < 0) | (known > top)).sum()):
        said += f", {beyond} beyond it are clipped"
    return scaled, said
