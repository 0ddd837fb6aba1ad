"""Data sets: whatever `--dataset` names, found, and given to the reader of its kind.

A data set is map-style: `dataset.read(i)` gives the picture and the label of ordinal `i`, or
raises.
"""

import contextlib
import dataclasses
import warnings
from collections.abc import Callable
from pathlib import Path, PurePath

import numpy as np
from PIL import Image

from imagegram.cli import UserError
from imagegram.data import arrays, folders, shipped, tables, webdataset
from imagegram.data.dataset import (
    DatasetOptions,
    ImageDataset,
    counted,
    first_names,
    permutation,
    printable,
)
from imagegram.data.preprocess import deep_to_8_bit, to_rgb
from imagegram.data.survey import KINDS, ZIPPED, Tree, kind_of_file, survey, unreadable_folder

LOOKED_AT = 8  # pictures, to say what is taken of them
BLACK = 8  # of 255: a picture whose brightest value is below
UNPACK = "decompress it first (tar files must be plain: gunzip x.tar.gz gives x.tar)"
READERS: dict[str, Callable[[str, Tree, DatasetOptions], ImageDataset]] = {
    "pictures": folders.read_folder,
    "tars": webdataset.read_tars,
    "tables": tables.read_parquet,
    "idx": arrays.read_idx,
    "npz": arrays.read_npz,
}


def open_dataset(name: str, wanted: DatasetOptions, image_size: int) -> ImageDataset:
    """Open what `--dataset` names; UserError with the remedy where that fails.

    `image_size` in pixels is the resolution that procedural shapes are drawn at. Split and columns
    are found by their names and types unless they are named; what does not apply is refused.
    """
    if not name.strip():
        raise UserError(
            "--dataset is empty: name a data set, or . for the folder that you stand in"
        )
    if wanted.images < 0:
        raise UserError(f"--images must be at least 0, not {wanted.images}")
    path = Path(name)
    if name in shipped.SHIPPED:
        dataset = shipped.open_shipped(name, wanted, image_size)
    elif path.is_dir():
        dataset = _open_folder(name, path, wanted)
    elif path.exists():
        dataset = _open_file(name, path, wanted)
    elif path.is_symlink():
        raise UserError(f"{name} is a link whose target is gone")
    elif (
        name.startswith((".", "/", "~"))
        or name.count("/") > 1
        or path.suffix in (".tar", ".npz", ".parquet")
    ):
        raise UserError(f"no data set at {name}: there is no such file or folder")
    else:
        dataset = tables.read_hub(name, wanted)
    dataset = looked_at(dataset)
    if wanted.images > dataset.size:
        raise UserError(f"{name} has {dataset.size} images, {wanted.images} were asked for")
    return dataclasses.replace(dataset, images=wanted.images)


def looked_at(dataset: ImageDataset) -> ImageDataset:
    """The data set with notes on what a few of its pictures show: several frames, floats, nothing
    but black.

    Floats have one scale for the whole data set, that of the largest number among the few.
    """
    notes: list[str] = []
    floats: dict[int, float] = {}  # the largest number of each
    brightest: list[float] = []
    for i in permutation(dataset.size)[:LOOKED_AT].tolist():
        # faults are counted when it is read
        with contextlib.suppress(Exception), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image, _ = dataset.read(i)
            if getattr(image, "is_animated", False) and not notes:
                notes = [
                    (
                        "of pictures with several frames or pages the first is taken, e.g. "
                        f"{dataset.name_of(i)}"
                    )
                ]
            if image.mode == "F":
                values = np.asarray(image)
                floats[i] = float(values[np.isfinite(values)].max(initial=0))
            else:
                brightest.append(float(np.asarray(to_rgb(image)).max()))
    if floats and (top := arrays.top_of(max(floats.values()))):
        dataset = _with_scale(dataset, top)
        brightest += [255 * most / top for most in floats.values()]
        above = f", what lies above it (up to {max(floats.values()):g}) is clipped" * (
            max(floats.values()) > top
        )
        notes.append(
            f"pictures of floats: all taken for 0 to {top}{above}, e.g. "
            f"{dataset.name_of(next(iter(floats)))}"
        )
    black = int(np.sum(np.array(brightest) < BLACK))
    if len(brightest) >= LOOKED_AT // 2 and black >= len(brightest) - 1:
        notes.append(f"warning: {black} of {len(brightest)} pictures that were looked at are black")
    return dataclasses.replace(dataset, notes=(*dataset.notes, *notes))


def _with_scale(dataset: ImageDataset, top: int) -> ImageDataset:
    """The data set, its pictures of floats read as 0 to `top`."""

    def read(i: int) -> tuple[Image.Image, int]:
        image, label = dataset.read(i)
        return (deep_to_8_bit(image, top) if image.mode == "F" else image), label

    return dataclasses.replace(dataset, read=read)


def _open_file(name: str, path: Path, wanted: DatasetOptions) -> ImageDataset:
    """A data set that is one file."""
    tree = Tree(path.parent)
    kind = kind_of_file(path.name)
    if path.suffix.lower() in ZIPPED:
        raise UserError(
            f"{name} is an archive, which is not looked into: unpack it, and give the folder"
        )
    if kind == "compressed":
        raise UserError(
            f"{name} is compressed, and its pictures cannot be read one by one: {UNPACK}, or "
            "unpack it"
        )
    if kind == "idx":  # its labels stand beside it
        beside = path.with_name(arrays.labels_of(path.name))
        tree.files["idx"] = [file.name for file in (path, beside) if file.exists()]
        return arrays.read_idx(name, tree, wanted)
    if kind not in ("tars", "tables", "npz"):
        remedy = ": give the folder that it lies in" if kind == "pictures" else ""
        remedy = (
            ": np.savez(NAME, images=..., labels=...) writes an .npz"
            if path.suffix == ".npy"
            else remedy
        )
        raise UserError(
            f"{name} is neither a folder nor a .tar, .parquet, .npz or IDX file{remedy}"
        )
    tree.files[kind] = [path.name]
    return READERS[kind](name, tree, wanted)


def _open_folder(name: str, path: Path, wanted: DatasetOptions) -> ImageDataset:
    """A folder: saved by `datasets`, or of files of one kind; UserError where there is more than
    one."""
    try:
        saved = any((path / file).exists() for file in ("dataset_dict.json", "state.json"))
    except PermissionError as error:
        raise unreadable_folder(path, error) from None
    if saved:
        return tables.read_saved(name, wanted)
    tree = survey(path)
    for file in tree.metadata if not tree.files["pictures"] else []:
        if file.endswith(".parquet"):
            tree.files["tables"].append(file)
        else:
            tree.leave_out(f"{PurePath(file).suffix} tables", file)
    _leave_out_others(path, tree)
    present = [kind for kind in KINDS if tree.files[kind]]
    if "compressed" in present and present != ["compressed"] and "tars" not in present:
        for file in tree.files["compressed"]:  # what the others were unpacked from
            tree.leave_out(KINDS["compressed"], file)
        present.remove("compressed")
    if len(present) > 1:
        found = "; ".join(
            f"{len(tree.files[k])} {KINDS[k]} ({first_names(tree.files[k][:2])})" for k in present
        )
        remedy = "Name the folder or file of one of them, or move the others elsewhere"
        raise UserError(f"{name} holds more than one kind of data: {found}. {remedy}")
    if present == ["saved"]:
        raise UserError(
            f"{name} holds data sets saved by `datasets`: name one, "
            f"{first_names(tree.files['saved'])}"
        )
    if present == ["compressed"]:
        raise UserError(
            f"{name} holds compressed tar files ({first_names(tree.files['compressed'])}): {UNPACK}"
        )
    if not present:
        left = "; ".join(counted(tree.left_out()))
        none = (
            f"{printable(name)} holds no images, no .tar, .parquet, .npz or IDX files and no saved "
            "data set"
        )
        raise UserError(none + f" (it holds {left})" * bool(left))
    return READERS[present[0]](name, tree, wanted)


def _leave_out_others(path: Path, tree: Tree) -> None:
    """Tables of captions and archives of statistics often lie beside a data set: they are none,
    where another is."""
    for kind, holds_pictures in (("tables", tables.holds_pictures), ("npz", arrays.holds_pictures)):
        without = [file for file in tree.files[kind] if not holds_pictures(path / file)]
        if sum(map(len, tree.files.values())) == len(without):
            continue  # nothing else: its reader says what is missing
        for file in without:
            tree.files[kind].remove(file)
            tree.leave_out(f"{KINDS[kind]} without pictures", file)
