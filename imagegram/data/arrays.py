"""Arrays of pictures: IDX files (MNIST and its kin, as distributed, compressed or not) and NumPy archives.

IDX (http://yann.lecun.com/exdb/mnist): two zero bytes, the type (8: unsigned byte), the number of dimensions, each
dimension as a big-endian uint32, then the values. Pictures [n, h, w] stand in `...images-idx3-ubyte[.gz]`, labels [n]
in `...labels-idx1-ubyte[.gz]`.
"""

import gzip
import re
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imagegram.cli import UserError
from imagegram.data.dataset import IMAGE_NAMES, LABEL_NAMES, DatasetOptions, ImageDataset, digest, first_names
from imagegram.data.labels import choose, files_of_split, from_numbers, from_texts, kind_of, split_of
from imagegram.data.survey import Tree

ARRAY_IMAGES = ("x", "arr_0", "data", *IMAGE_NAMES)  # names of pictures and of labels in archives
ARRAY_LABELS = ("y", "arr_1", "targets", *LABEL_NAMES)
CHANNELS = (1, 3, 4)


def read_idx(name: str, tree: Tree, wanted: DatasetOptions) -> ImageDataset:
    """One split of a folder of IDX files, or one file of pictures with its labels beside it."""
    wanted.refuse(name, "a set of IDX files", "image_column", "label_column")
    found: dict[str, str] = {}
    for file in sorted(tree.files["idx"], key=lambda file: file.endswith(".gz")):  # unpacked beside its .gz: once
        found.setdefault(file.removesuffix(".gz"), file)
    split, files, note = files_of_split(name, list(found), wanted.split)
    for file in found:
        if file not in files:
            tree.leave_out("IDX files of other splits", found[file])

    pictures = [file for file in files if "image" in file.rpartition("/")[2]]
    if len(pictures) != 1:
        what = f"several IDX files of pictures ({first_names(pictures)})" if pictures else "no IDX file of pictures"
        raise UserError(f"{name} holds {what} in split {split}: name one file with --dataset")
    values = _read_idx_file(tree.root / found[pictures[0]])
    if values.ndim != 3:
        raise UserError(f"{name}/{found[pictures[0]]} has {values.ndim} dimensions, pictures have 3")
    partner = found.get(labels_of(pictures[0]))
    labels = _read_idx_file(tree.root / partner).ravel() if partner else None
    for file in files:
        if file not in (pictures[0], labels_of(pictures[0])):
            tree.leave_out("other IDX files", found[file])
    used = f"images from {found[pictures[0]]}, " + (f"labels from {partner}" if partner else "no file of labels")
    return _arrays(name, split, values, labels, "IDX files", [line for line in (note, used) if line], tree)


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
        raise UserError(f"{path} has {len(data) - header} bytes, {shape} were announced: download it again")
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def read_npz(name: str, tree: Tree, wanted: DatasetOptions) -> ImageDataset:
    """Pictures and labels of a NumPy archive: [n, h, w], [n, h, w, 1, 3 or 4], or torch's [n, 1, 3 or 4, h, w].

    Their scale is that of `_to_bytes`. Arrays of Python objects are pickles, which may run code: they are not read.
    """
    split, files, note = files_of_split(name, tree.files["npz"], wanted.split if len(tree.files["npz"]) > 1 else "")
    if len(files) > 1:
        raise UserError(f"{name} holds several archives ({first_names(files)}): name one with --dataset")
    path = tree.root / files[0]
    shapes = array_shapes(path)
    if not shapes:
        raise UserError(f"{path} is damaged or no NumPy archive: download or write it again")
    pictures = [key for key, (shape, kind) in shapes.items() if _are_pictures(shape, kind)]
    if wanted.image_column and wanted.image_column not in shapes:
        raise UserError(f"{name} has no array {wanted.image_column!r}; it has {first_names(shapes)}")
    # Splits within the archive: train_images, x_test, ...
    splits = sorted({kind for key in pictures if (kind := split_of(key))})
    if splits and not wanted.image_column:
        split = choose(name, splits, wanted.split)
        note = f"split {split} of {', '.join(splits)} (--split)"
        pictures = [key for key in pictures if split_of(key) == kind_of(split)]
    elif wanted.split and len(tree.files["npz"]) == 1:
        raise UserError(f"--split {wanted.split} does not apply: {name} has no splits. Leave the option out")

    image_key = wanted.image_column or _pick(name, pictures, ARRAY_IMAGES, shapes, "image-column")
    if not image_key:
        raise UserError(
            f"{name} holds no array of pictures ({_shown(shapes)}): these are numbers [n, h, w] or [n, h, w, channels]"
        )
    count = shapes[image_key][0][0]
    fitting = [
        key
        for key, (shape, kind) in shapes.items()
        if kind in "iufbUS" and shape in ((count,), (count, 1)) and split_of(key) == split_of(image_key)
    ]
    if wanted.label_column and wanted.label_column not in fitting:
        raise UserError(f"{name} has no labels {wanted.label_column!r} for {count} pictures; it has {_shown(shapes)}")
    label_key = wanted.label_column or _pick(name, fitting, ARRAY_LABELS, shapes, "label-column")
    values = _load(path, image_key)
    labels = _load(path, label_key).reshape(-1) if label_key else None
    used = f"images from array {image_key}, " + (f"labels from {label_key}" if label_key else "no labels")
    if rest := {key: shapes[key] for key in shapes if key not in (image_key, label_key)}:
        used += f"; not used: {_shown(rest)}"
    notes = [line for line in (note, used) if line]
    return _arrays(name, split, values, labels, "a NumPy archive", notes, tree, (image_key, label_key))


def array_shapes(path: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and kind (NumPy's letter) of every array of an archive, from their headers; {} where it is damaged."""
    found: dict[str, tuple[tuple[int, ...], str]] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for key in archive.namelist():
                with archive.open(key) as f:
                    found[key.removesuffix(".npy")] = _header(f)
    except (OSError, ValueError, zipfile.BadZipFile):
        return {}
    return found


def _header(f: IO[bytes]) -> tuple[tuple[int, ...], str]:
    version = np.lib.format.read_magic(f)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(f)
    return shape, dtype.kind


def _are_pictures(shape: tuple[int, ...], kind: str) -> bool:
    if kind not in "uifb" or len(shape) not in (3, 4) or min(shape) == 0:
        return False
    return len(shape) == 3 or shape[3] in CHANNELS or shape[1] in CHANNELS


def holds_pictures(path: Path) -> bool:
    """Whether an archive has an array of pictures, or cannot be read."""
    shapes = array_shapes(path)
    return not shapes or any(_are_pictures(*entry) for entry in shapes.values())


def _shown(shapes: Mapping[str, tuple[tuple[int, ...], str]]) -> str:
    of = {"O": " of objects", "f": " of floats", "U": " of text", "S": " of text"}
    return first_names(f"{key} {list(shape)}{of.get(kind, '')}" for key, (shape, kind) in shapes.items()) or "nothing"


def _pick(name: str, keys: list[str], usual: tuple[str, ...], shapes: Mapping[str, object], option: str) -> str:
    """The only key, else the one with a usual name beside its split's; "" where there is none."""
    if len(keys) < 2:
        return keys[0] if keys else ""
    for word in usual:
        same = [key for key in keys if word in re.split(r"[^a-z0-9]+", key.lower()) or key.lower() == word]
        if len(same) == 1:
            return same[0]
    raise UserError(f"{name} has several arrays that may be meant, {first_names(keys)}: name one with --{option}")


def _load(path: Path, key: str) -> NDArray[np.generic]:
    try:
        with np.load(path) as archive:
            values: NDArray[np.generic] = archive[key]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path}: array {key} cannot be read ({error}): download or write the archive again") from None
    return values


def _arrays(
    name: str,
    split: str,
    values: NDArray[np.generic],
    labels: NDArray[np.generic] | None,
    kind: str,
    notes: list[str],
    tree: Tree,
    columns: tuple[str, str] = ("", ""),
) -> ImageDataset:
    """A source of arrays in memory: `values` [n, h, w] or [n, h, w, c]."""
    if labels is not None and len(labels) != len(values):
        raise UserError(f"{name} has {len(values)} pictures and {len(labels)} labels: they do not belong together")
    if values.ndim == 4 and values.shape[3] not in CHANNELS:
        notes.append("the channels come first: taken for the last axis")
        values = np.moveaxis(values, 1, 3)
    values, assumed = _to_bytes(name, values)
    notes.append(assumed)
    pixels = values[..., 0] if values.ndim == 4 and values.shape[3] == 1 else values
    if labels is None:
        numbers = np.full(len(values), -1, np.int32)
        classes = tuple[str, ...]()
        changed = ""
    elif labels.dtype.kind in "US":
        numbers, classes = from_texts([str(text) for text in labels.astype(str)])
        changed = ""
    else:
        whole, fault = _whole(labels)
        numbers, classes, changed = from_numbers(whole)
        changed = fault or changed
    if changed:
        notes.append(changed)
    return ImageDataset(
        name=name,
        split=split,
        fingerprint=digest([str(values.shape).encode(), np.ascontiguousarray(values).tobytes(), numbers.tobytes()]),
        size=len(values),
        read=lambda i: (Image.fromarray(np.asarray(pixels[i])), int(numbers[i])),
        class_names=classes,
        image_column=columns[0],
        label_column=columns[1],
        kind=kind,
        notes=tuple(line for line in notes if line),
        left_out=tree.left_out(),
        name_of=lambda i: f"row {i}",
    )


def _to_bytes(name: str, values: NDArray[np.generic]) -> tuple[NDArray[np.uint8], str]:
    """Pictures of any numbers as uint8, and a line on what was assumed, "" for usual ones.

    Up to 1: 0 to 1, be they floats, truth values or bytes. Up to 255: 0 to 255. Beyond that whole numbers of 16 bits.
    UserError for others. What is no number (NaN) is 0.
    """
    if values.dtype == np.uint8 and values.max() != 1:
        return values.astype(np.uint8, copy=False), ""
    numbers = values.astype(np.float64)
    known = numbers[~np.isnan(numbers)]
    if not known.size:
        raise UserError(f"{name}: pictures without a number in them (NaN)")
    lost = numbers.size - known.size
    least = float(known.min())
    most = float(known.max())
    top = 1 if most <= 1 else 255 if most <= 255 else 65535
    if least < 0 or most > (255 if values.dtype.kind == "f" else 65535):
        raise UserError(
            f"{name}: pictures with values from {least:g} to {most:g}; they must lie in 0 to 1 or 0 to 255, or be "
            "whole numbers up to 65535"
        )
    scaled = (np.nan_to_num(numbers) * (255 / top)).round().astype(np.uint8)
    return scaled, f"values from {least:g} to {most:g}: taken for 0 to {top}" + (f", {lost} NaN for 0" if lost else "")


def _whole(labels: NDArray[np.generic]) -> tuple[list[int | None], str]:
    """Labels as whole numbers, NaN as None; all None, and why, where one has a fraction."""
    if labels.dtype.kind != "f":
        return [int(number) for number in labels], ""
    found = [None if np.isnan(number) else float(number) for number in labels.astype(np.float64)]
    if wrong := [number for number in found if number is not None and not number.is_integer()]:
        return [None] * len(found), f"the labels hold {wrong[0]:g}, no classes: every image has label -1"
    return [None if number is None else int(number) for number in found], ""
