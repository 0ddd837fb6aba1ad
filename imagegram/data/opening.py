"""Data sets: whatever `--dataset` names, found, and given to the reader of its kind."""

import contextlib
import dataclasses
import warnings
from collections.abc import Callable
from pathlib import Path, PurePath

import numpy as np
from PIL import Image

from imagegram.cli import UserError
from imagegram.data import arrays, folders, shipped, tables, webdataset
from imagegram.data.dataset import DatasetOptions, ImageDataset, counted, permutation
from imagegram.data.preprocess import deep_to_8_bit, to_rgb
from imagegram.data.survey import KINDS, SAVED, ZIPPED, Tree, cannot_read, kind_of_file, survey
from imagegram.data.wording import first_names, printable

LOOKED_AT = 8  # pictures, to say what is taken of them
BLACK = 8  # of 255: a picture whose brightest value is below
SUFFIXES = (".tar", ".npz", ".parquet")  # of files, never of the hub's names
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
        remedy = "name a data set, or . for the folder that you stand in"
        raise UserError(f"--dataset is empty: {remedy}")
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
    elif name.startswith((".", "/", "~")) or name.count("/") > 1 or path.suffix in SUFFIXES:
        raise UserError(f"no data set at {name}: there is no such file or folder")
    else:
        dataset = tables.read_hub(name, wanted)
    dataset = _looked_at(dataset)
    if wanted.images > dataset.size:
        raise UserError(f"{name} has {dataset.size} images, {wanted.images} were asked for")
    return dataclasses.replace(dataset, images=wanted.images)


def _looked_at(dataset: ImageDataset) -> ImageDataset:
    """The data set with notes on what a few of its pictures show: several frames, floats, black.

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
                what = "of pictures with several frames or pages the first is taken"
                notes = [f"{what}, e.g. {dataset.name_of(i)}"]
            if image.mode == "F":
                values = np.asarray(image)
                floats[i] = float(values[np.isfinite(values)].max(initial=0))
            else:
                brightest.append(float(np.asarray(to_rgb(image)).max()))
    most = max(floats.values(), default=0)
    top = arrays.top_of(most) if floats else 0
    if top:
        brightest += [255 * value / top for value in floats.values()]
        above = f", what lies above it (up to {most:g}) is clipped" * (most > top)
        example = dataset.name_of(next(iter(floats)))
        notes.append(f"pictures of floats: all taken for 0 to {top}{above}, e.g. {example}")
    black = sum(value < BLACK for value in brightest)
    if len(brightest) >= LOOKED_AT // 2 and black >= len(brightest) - 1:
        notes.append(f"warning: {black} of {len(brightest)} pictures that were looked at are black")

    def scaled(i: int) -> tuple[Image.Image, int]:
        image, label = dataset.read(i)
        return (deep_to_8_bit(image, top) if image.mode == "F" else image), label

    read = scaled if top else dataset.read
    return dataclasses.replace(dataset, read=read, notes=(*dataset.notes, *notes))


def _open_file(name: str, path: Path, wanted: DatasetOptions) -> ImageDataset:
    """A data set that is one file."""
    tree = Tree(path.parent)
    kind = kind_of_file(path.name)
    if path.suffix.lower() in ZIPPED:
        what = f"{name} is an archive, which is not looked into"
        raise UserError(f"{what}: unpack it, and give the folder")
    if kind == "compressed":
        what = f"{name} is compressed, and its pictures cannot be read one by one"
        raise UserError(f"{what}: {UNPACK}, or unpack it")
    if kind in ("pictures", ""):
        remedy = ": give the folder that it lies in" if kind else ""
        if path.suffix == ".npy":
            remedy = ": np.savez(NAME, images=..., labels=...) writes an .npz"
        what = f"{name} is neither a folder nor a .tar, .parquet, .npz or IDX file"
        raise UserError(what + remedy)
    tree.files[kind] = [path.name]
    beside = path.with_name(arrays.labels_of(path.name))
    if kind == "idx" and beside.exists():
        tree.files[kind].append(beside.name)
    return READERS[kind](name, tree, wanted)


def _open_folder(name: str, path: Path, wanted: DatasetOptions) -> ImageDataset:
    """A folder: saved by `datasets`, or of files of one kind; UserError for more than one."""
    try:
        saved = any((path / file).exists() for file in SAVED)
    except PermissionError as error:
        raise cannot_read(path, error) from None
    if saved:
        return tables.read_saved(name, wanted)
    tree = survey(path)
    files = tree.files
    for file in tree.metadata if not files["pictures"] else []:
        if file.endswith(".parquet"):
            files["tables"].append(file)
        else:
            tree.leave_out(f"{PurePath(file).suffix} tables", file)
    _leave_out_others(path, tree)
    present = [kind for kind in KINDS if files[kind]]
    if "compressed" in present and present != ["compressed"] and "tars" not in present:
        for file in files["compressed"]:  # what the others were unpacked from
            tree.leave_out(KINDS["compressed"], file)
        present.remove("compressed")
    if not present:
        left = "; ".join(counted(tree.left_out()))
        none = "no images, no .tar, .parquet, .npz or IDX files and no saved data set"
        raise UserError(f"{printable(name)} holds {none}" + f" (it holds {left})" * bool(left))
    kind = present[0]
    if len(present) > 1:
        each = [f"{len(files[k])} {KINDS[k]} ({first_names(files[k][:2])})" for k in present]
        remedy = "Name the folder or file of one of them, or move the others elsewhere"
        raise UserError(f"{name} holds more than one kind of data: {'; '.join(each)}. {remedy}")
    names = first_names(files[kind])
    if kind == "saved":
        raise UserError(f"{name} holds data sets saved by `datasets`: name one, {names}")
    if kind == "compressed":
        raise UserError(f"{name} holds compressed tar files ({names}): {UNPACK}")
    return READERS[kind](name, tree, wanted)


def _leave_out_others(path: Path, tree: Tree) -> None:
    """Tables of captions and archives of statistics are no data set where they lie beside one."""
    for kind in ("tables", "npz"):
        without = [file for file in tree.files[kind] if not _holds_pictures(kind, path / file)]
        if sum(map(len, tree.files.values())) == len(without):
            continue  # nothing else: its reader says what is missing
        for file in without:
            tree.files[kind].remove(file)
            tree.leave_out(f"{KINDS[kind]} without pictures", file)


def _holds_pictures(kind: str, path: Path) -> bool:
    """Whether a table or an archive may hold pictures, or is damaged, which its reader says."""
    with contextlib.suppress(UserError):
        found = tables.image_columns(path) if kind == "tables" else arrays.image_arrays(path)
        return bool(found)
    return True
