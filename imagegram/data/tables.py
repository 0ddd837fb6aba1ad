"""Tables with a column of pictures, through the library `datasets`: the hub's, saved ones, and parquet files.

Columns are found by their types and usual names; where more than one could be meant, the choices are named.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imagegram.cli import UserError
from imagegram.data.dataset import (
    IMAGE_NAMES,
    LABEL_NAMES,
    NO_SPLITS,
    DatasetOptions,
    ImageDataset,
    LeftOut,
    contents_of,
    digest,
    first_names,
    open_picture,
)
from imagegram.data.labels import choose, files_of_split, from_numbers, from_texts
from imagegram.data.survey import Tree

LOOKED_AT = 20  # rows, to see whether a column of text names files
FLOATS = ("float16", "float32", "float64", "double", "float")
BYTES = ("binary", "large_binary")
REMEDY = (
    "check the name and the connection, or give digits, shapes, a folder of images, of .tar files, of parquet files, "
    "of IDX files, or one saved by datasets"
)
TEXT = ("string", "large_string")


def read_hub(name: str, wanted: DatasetOptions) -> ImageDataset:
    """A data set of the hub, or of its cache."""
    import datasets

    split = wanted.split or "train"
    with _errors_in_one_line(name, split, f"there is no file or folder {name} in {Path.cwd()} either; {REMEDY}"):
        data = datasets.load_dataset(name, split=split)
    return _read_table(name, data, split, wanted, "a data set of the Hugging Face hub", data._fingerprint)


def read_saved(name: str, wanted: DatasetOptions) -> ImageDataset:
    """What `save_to_disk` wrote: one data set, or several splits."""
    import datasets

    with _errors_in_one_line(name, wanted.split, "its files are incomplete or damaged, save it again"):
        data = datasets.load_from_disk(name)
    notes = []
    split = wanted.split
    if isinstance(data, datasets.DatasetDict):
        split = choose(name, list(data), wanted.split)
        notes.append(f"split {split} of {', '.join(data)} (--split)")
        data = data[split]
    elif split and split != str(data.split):
        raise UserError(f"--split {split} does not apply: {name} is one saved data set. Leave the option out")
    return _read_table(name, data, split or "train", wanted, "a saved data set", data._fingerprint, notes)


def read_parquet(name: str, tree: Tree, wanted: DatasetOptions) -> ImageDataset:
    """Parquet files, such as those of a repository downloaded from the hub. `datasets` makes a copy in its cache."""
    import datasets

    split, files, note = files_of_split(name, tree.files["tables"], wanted.split)
    for file in tree.files["tables"]:
        if file not in files:
            tree.leave_out("parquet files of other splits", file)
    paths = [tree.root / file for file in files]
    rows = _rows(paths)
    if rows == 0:
        raise UserError(f"the data set {name!r} has no images: its parquet files have no rows")
    # The library's own fingerprint knows the files by path and date, and so does its cache: under another name it
    # does not give the former content of a file that was rewritten with its date kept.
    contents = contents_of([(path, 0, None) for path in paths])
    fingerprint = digest(os.fsencode(file) + b"\0" + content for file, content in zip(files, contents, strict=True))
    sources = [str(path.resolve()) for path in paths]
    try:
        with _errors_in_one_line(name, split, ""):
            data = datasets.load_dataset("parquet", name=fingerprint, data_files=sources, split="train")
    except UserError as error:
        raise UserError(f"{error}{_differences(paths)}") from None
    kind = f"{len(files)} parquet file{'s' * (len(files) > 1)}"
    return _read_table(name, data, split, wanted, kind, fingerprint, [note, contents.note], tree.left_out())


def _rows(paths: Sequence[Path]) -> int:
    """Rows of parquet files, by their footers; -1 where one is damaged."""
    import pyarrow
    import pyarrow.parquet

    try:
        return sum(pyarrow.parquet.read_metadata(path).num_rows for path in paths)
    except (OSError, ValueError, pyarrow.ArrowException):
        return -1


def holds_pictures(path: Path) -> bool:
    """Whether a parquet file has a column that may be a picture; img2dataset writes others beside its tars."""
    import datasets
    import pyarrow
    import pyarrow.parquet

    try:
        features = datasets.Features.from_arrow_schema(pyarrow.parquet.read_schema(path))
    except (OSError, ValueError, pyarrow.ArrowException):
        return True  # broken: whoever reads it says how
    return bool(_image_candidates(features))


@contextlib.contextmanager
def _errors_in_one_line(name: str, split: str, remedy: str) -> Iterator[None]:
    """The hub, its cache and its builders fail in ways of their own: one line, with what to try."""
    import datasets
    import huggingface_hub

    huggingface_hub.utils.logging.set_verbosity_error()  # its retries would bury the one line that helps
    verbosity = datasets.utils.logging.get_verbosity()
    datasets.utils.logging.set_verbosity(datasets.utils.logging.CRITICAL)
    try:
        yield
    except UserError:
        raise
    except IndexError:  # how datasets says that a saved one has no rows
        raise UserError(f"the data set {name!r} has no images") from None
    except Exception as error:
        # What says "an error occurred" has the reason as its cause.
        last: BaseException = error
        while last.__cause__ is not None:
            last = last.__cause__
        reason = str(last).strip().splitlines()[0] if str(last).strip() else type(last).__name__
        shown = f", split {split!r}" if split not in ("", NO_SPLITS) else ""
        raise UserError(f"cannot load the data set {name!r}{shown} ({reason}): {remedy}") from None
    finally:
        datasets.utils.logging.set_verbosity(verbosity)


def _differences(paths: Sequence[Path]) -> str:
    """What is wrong with the first of several parquet files that cannot be read together with the first one."""
    import pyarrow
    import pyarrow.parquet

    first: dict[str, str] = {}
    for path in paths:
        try:
            schema = pyarrow.parquet.read_schema(path)
        except (OSError, ValueError, pyarrow.ArrowException) as error:
            return f"{path} is damaged ({str(error).splitlines()[0]}): download or write it again"
        columns = {name: str(kind) for name, kind in zip(schema.names, schema.types, strict=True)}
        first = first or columns
        if columns != first:
            one = first_names(f"{name} ({kind[:40]})" for name, kind in first.items())
            other = first_names(f"{name} ({kind[:40]})" for name, kind in columns.items())
            return f"{paths[0].name} has the columns {one}, {path.name} has {other}: name one file, or mend them"
    return "they cannot be read as one table"


def _read_table(
    name: str,
    data: Any,
    split: str,
    wanted: DatasetOptions,
    kind: str,
    fingerprint: str,
    notes: Sequence[str] = (),
    left_out: tuple[LeftOut, ...] = (),
) -> ImageDataset:
    import datasets

    # 1) The columns, and the labels all at once: a fault of the labels is none of the pictures.
    image_column = _image_column(name, data.features, wanted.image_column)
    label_column = _label_column(name, data.features, wanted.label_column)
    labels, class_names, note = _labels(name, data, label_column, named=bool(wanted.label_column))
    rest = sorted(set(data.features) - {image_column, label_column})
    used = f"images from column {image_column!r}, "
    used += f"labels from {label_column!r}" if label_column else "no label column"
    used += f"; not used: {first_names(rest)}" if rest else ""

    # 2) A bad picture must not stop the others: bytes are decoded one row at a time.
    data = data.select_columns([image_column]).cast_column(image_column, datasets.Image(decode=False))
    first = [cell for cell in data[:LOOKED_AT][image_column] if cell and (cell["bytes"] is not None or cell["path"])]
    if first and all(cell["bytes"] is None and not Path(cell["path"]).exists() for cell in first):
        raise UserError(
            f"column {image_column!r} of {name} holds no pictures and names no files: {first[0]['path'][:60]!r}"
        )

    def read(i: int) -> tuple[Image.Image, int]:
        cell = data[i][image_column]
        if cell is None or (cell["bytes"] is None and not cell["path"]):
            raise ValueError("the row has no picture")
        content = cell["bytes"] if cell["bytes"] is not None else Path(cell["path"]).read_bytes()
        return open_picture(content), int(labels[i])

    return ImageDataset(
        name=name,
        split=split,
        fingerprint=fingerprint,
        size=len(data),
        read=read,
        class_names=class_names,
        image_column=image_column,
        label_column=label_column,
        kind=kind,
        notes=tuple(line for line in (*notes, used, note) if line),
        left_out=left_out,
        name_of=lambda i: f"row {i}",
    )


def _holds_image(feature: object) -> bool:
    """Whether a feature is a picture, or the bytes or the path of one."""
    import datasets

    if isinstance(feature, dict):
        return {"bytes", "path"} >= set(feature) >= {"bytes"}
    return isinstance(feature, datasets.Image) or getattr(feature, "dtype", "") in (*BYTES, *TEXT)


def _image_candidates(features: Any) -> list[str]:
    """Columns of pictures: by their type, else structs of bytes and path, else bytes under a usual name."""
    import datasets

    typed = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    structs = [name for name, feature in features.items() if isinstance(feature, dict) and _holds_image(feature)]
    named = [name for name, feature in features.items() if name in IMAGE_NAMES and _dtype(feature) in BYTES]
    return typed or structs or named


def _dtype(feature: object) -> str:
    return str(getattr(feature, "dtype", ""))


def _described(features: Any) -> str:
    """The columns with their types, in a line."""
    return first_names(f"{name} ({_in_words(feature)})" for name, feature in features.items())


def _in_words(feature: object) -> str:
    """The type of a column."""
    import datasets

    if isinstance(feature, datasets.Image):
        return "pictures"
    each = getattr(feature, "feature", None)
    if each is not None:
        return f"lists of {_in_words(each)}"
    return _dtype(feature) or type(feature).__name__


def _unlisted(features: Any) -> str:
    """How to write lists of pictures one a row, where there are some; else ""."""
    lists = [name for name, feature in features.items() if _in_words(feature) == "lists of pictures"]
    if not lists:
        return ""
    rows = f"data.map(lambda rows: {{'image': sum(rows['{lists[0]}'], [])}}, batched=True, "
    return f". With datasets, {rows}remove_columns=data.column_names) has one a row, save that"


def _one_of(name: str, candidates: list[str], usual: Sequence[str], option: str) -> str:
    """The only candidate, else the one with a usual name; UserError with the choices."""
    if len(candidates) < 2:
        return candidates[0] if candidates else ""
    for word in usual:
        if word in candidates:
            return word
    raise UserError(f"{name} has several columns that may be meant, {', '.join(candidates)}: name one with --{option}")


def _given(name: str, features: Any, given: str) -> None:
    if given and given not in features:
        raise UserError(f"{name} has no column {given!r}; it has {_described(features)}")


def _image_column(name: str, features: Any, given: str) -> str:
    """The column of pictures; UserError where there is none, or another type in the one that was named."""
    _given(name, features, given)
    column = given or _one_of(name, _image_candidates(features), IMAGE_NAMES, "image-column")
    if not column:
        possible = [column for column, feature in features.items() if _holds_image(feature)]
        remedy = "none of them holds one picture a row"
        if possible:
            remedy = (
                f"if pictures or the names of their files are in {first_names(possible)}, say so with --image-column"
            )
        remedy = f"{remedy}{_unlisted(features)}"
        raise UserError(f"{name} has no image column (columns: {_described(features)}): {remedy}")
    if not _holds_image(features[column]):
        raise UserError(
            f"column {column!r} of {name} holds {_in_words(features[column])}, not one picture a row "
            f"(columns: {_described(features)}){_unlisted({column: features[column]})}"
        )
    return column


def _label_column(name: str, features: Any, given: str) -> str:
    """The column of labels, "" where there is none; UserError where the named one holds no classes."""
    import datasets

    def classes(feature: object) -> bool:
        dtype = _dtype(feature)
        return isinstance(feature, datasets.ClassLabel) or dtype in (*TEXT, *FLOATS, "bool") or "int" in dtype

    _given(name, features, given)
    if given and not classes(features[given]):
        kind = _in_words(features[given])
        raise UserError(f"column {given!r} of {name} holds {kind}, no classes (integers, strings or ClassLabel)")
    typed = [column for column, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    named = [column for column in LABEL_NAMES if column in features and classes(features[column])]
    return given or _one_of(name, typed or named[:1], LABEL_NAMES, "label-column")


def _labels(name: str, data: Any, column: str, named: bool) -> tuple[NDArray[np.int32], tuple[str, ...], str]:
    """Labels int32 [n] (-1: none), class names, and what to say of them."""
    import datasets

    if not column:
        return np.full(len(data), -1, np.int32), (), ""
    feature = data.features[column]
    values = data.select_columns([column]).with_format("arrow")[:][column].to_pylist()
    missing = sum(value is None for value in values)
    note = f"{missing} rows without a label: -1" if missing else ""
    if isinstance(feature, datasets.ClassLabel):
        labels = np.array([-1 if value is None else value for value in values], np.int32)
        return labels, tuple(feature.names), note
    if _dtype(feature) in TEXT:
        labels, classes = from_texts(values)
        return labels, classes, note
    # pandas makes floats of whole numbers among which one is missing.
    values = [None if value is None or value != value else value for value in values]
    if wrong := [value for value in values if value is not None and value != int(value)]:
        fault = f"{column!r} holds {wrong[0]:g}, no classes"
        if named:
            raise UserError(f"{name}: {fault}: name another column with --label-column, or none")
        return np.full(len(data), -1, np.int32), (), f"{fault}: every image has label -1"
    missing = values.count(None)
    note = f"{missing} rows without a label: -1" if missing else ""
    labels, classes, changed = from_numbers([None if value is None else int(value) for value in values])
    return labels, classes, "; ".join(line for line in (changed, note) if line)
