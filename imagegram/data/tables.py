"""Tables with a column of pictures, through the library `datasets`: the hub's, saved ones, and
parquet files."""

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from imagegram.cli import UserError
from imagegram.data.columns import columns_of, image_candidates, in_words
from imagegram.data.dataset import (
    LABEL_NAMES,
    NO_SPLITS,
    DatasetOptions,
    ImageDataset,
    contents_of,
    digest,
    first_names,
    open_picture,
)
from imagegram.data.labels import Classes, choose, fraction_among, labelled, text_of
from imagegram.data.survey import Tree

LOOKED_AT = 20  # rows, to see whether a column of text names files
REMEDY = (
    "check the name and the connection, or give digits, shapes, a folder of images, of .tar "
    "files, of parquet files, of IDX files, or one saved by datasets"
)
PARTITION = re.compile(rf"(?:^|/)(?:{'|'.join(LABEL_NAMES)})=([^/]+)/", re.IGNORECASE)


def read_hub(name: str, wanted: DatasetOptions) -> ImageDataset:
    """A data set of the hub, or of its cache."""
    import datasets

    split = wanted.split or "train"
    with _errors_in_one_line(
        name, split, f"there is no file or folder {name} in {Path.cwd()} either; {REMEDY}"
    ):
        data = datasets.load_dataset(name, split=split)
    return _read_whole(name, data, split, wanted, kind="a data set of the Hugging Face hub")


def read_saved(name: str, wanted: DatasetOptions) -> ImageDataset:
    """What `save_to_disk` wrote: one data set, or several splits."""
    import datasets

    with _errors_in_one_line(
        name, wanted.split, "its files are incomplete or damaged, save it again"
    ):
        data = datasets.load_from_disk(name)
    notes = []
    split = wanted.split
    if isinstance(data, datasets.DatasetDict):
        split = choose(name, list(data), wanted.split)
        notes.append(f"split {split} of {', '.join(data)} (--split)")
        data = data[split]
    elif split and split != str(data.split):
        raise UserError(
            f"--split {split} does not apply: {name} is one saved data set. Leave the option out"
        )
    return _read_whole(name, data, split or "train", wanted, kind="a saved data set", notes=notes)


def read_parquet(name: str, tree: Tree, wanted: DatasetOptions) -> ImageDataset:
    """Parquet files, such as those of a repository downloaded from the hub. `datasets` makes a copy
    in its cache."""
    import pyarrow.parquet

    split, files, note = tree.of_split(name, "tables", wanted.split)
    paths = [tree.root / file for file in files]
    parts = [_features(path) for path in paths]
    counts = [pyarrow.parquet.read_metadata(path).num_rows for path in paths]
    if not sum(counts):
        raise UserError(f"the data set {name!r} has no images: its parquet files have no rows")
    contents = contents_of([(path, 0, None) for path in paths])
    fingerprint = digest(
        os.fsencode(file) + b"\0" + content for file, content in zip(files, contents, strict=True)
    )

    # Only the columns that are needed are read: of each file its own labels, whose names may be
    # others.
    columns = columns_of(name, parts[0], wanted)
    if any(
        column and column not in features
        for features in parts
        for column in (*columns, wanted.group)
    ):
        raise UserError(f"cannot load the data set {name!r}: {_differences(paths, parts)}")
    image_column, label_column = columns
    with _errors_in_one_line(
        name, split, "if its cache cannot be written, HF_HOME=FOLDER names another place for it"
    ):
        data = _load(paths, image_column, parts[0][image_column], fingerprint)
    if label_column:
        given = [
            (part[label_column], _values(path, label_column))
            for part, path in zip(parts, paths, strict=True)
        ]
        classes = _classes(name, label_column, given, named=bool(wanted.label_column))
    else:
        classes = _classes_of_folders(files, counts)
    groups = (
        [text_of(value) for path in paths for value in _values(path, wanted.group)]
        if wanted.group
        else None
    )
    return _read_table(
        name,
        data,
        classes,
        columns,
        [note, contents.note, _used(parts[0], columns)],
        groups=groups,
        group=wanted.group,
        split=split,
        kind=f"{len(files)} parquet file{'s' * (len(files) > 1)}",
        fingerprint=digest([fingerprint.encode(), classes.labels.tobytes(), *classes.identity()]),
        left_out=tree.left_out(),
    )


def _classes_of_folders(files: Sequence[str], rows: Sequence[int]) -> Classes:
    """The classes that the folders of files with so many rows name: label=cat/0.parquet, of a
    partitioned table."""
    keys = [found[1] if (found := PARTITION.search(file)) else "" for file in files]
    return Classes.of([key for key, count in zip(keys, rows, strict=True) for _ in range(count)])


def _load(paths: Sequence[Path], column: str, feature: Any, fingerprint: str) -> Any:
    """A column of parquet files, through the cache of `datasets`.

    The library's own fingerprint knows the files by path and date, and so does its cache: under
    another name it does not give the former content of a file that was rewritten with its date
    kept.
    """
    import datasets

    return datasets.load_dataset(
        "parquet",
        name=fingerprint,
        data_files=[str(path.resolve()) for path in paths],
        split="train",
        columns=[column],
        features=datasets.Features({column: feature}),
    )


def _values(path: Path, column: str) -> list[Any]:
    """A column of a parquet file, without what the names of its folders may say."""
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        return list(file.read(columns=[column]).column(0).to_pylist())


def _features(path: Path) -> "dict[str, Any]":
    """The columns of a parquet file; those of a type that `datasets` does not know as what pyarrow
    calls it."""
    import datasets
    import pyarrow
    import pyarrow.parquet

    try:
        schema = pyarrow.parquet.read_schema(path)
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise UserError(
            f"{path} is damaged ({str(error).splitlines()[0]}): download or write it again"
        ) from None
    found: dict[str, Any] = {}
    for field in schema:
        try:
            found |= datasets.Features.from_arrow_schema(
                pyarrow.schema([field], metadata=schema.metadata)
            )
        except (ValueError, TypeError):
            found[field.name] = str(field.type)
    return found


def holds_pictures(path: Path) -> bool:
    """Whether a parquet file has a column that may be a picture, or is damaged, which its reader
    says."""
    with contextlib.suppress(UserError):
        return bool(image_candidates(_features(path)))
    return True


@contextlib.contextmanager
def _errors_in_one_line(name: str, split: str, remedy: str) -> Iterator[None]:
    """The hub, its cache and its builders fail in ways of their own: one line, with what to try."""
    import datasets
    import huggingface_hub

    # its retries would bury the one line that helps
    huggingface_hub.utils.logging.set_verbosity_error()
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


def _differences(paths: Sequence[Path], parts: Sequence[dict[str, Any]]) -> str:
    """How the columns of the first file that has others than the first one differ from them."""
    other, features = next(
        (path, part) for path, part in zip(paths, parts, strict=True) if set(part) != set(parts[0])
    )
    columns = f"the columns {first_names(parts[0])}, {other.name} has {first_names(features)}"
    return f"{paths[0].name} has {columns}: name one file, or mend them"


def _read_whole(
    name: str,
    data: Any,
    split: str,
    wanted: DatasetOptions,
    *,
    kind: str,
    notes: Sequence[str] = (),
) -> ImageDataset:
    """A table of `datasets`, in whatever format it was saved."""
    data = data.with_format(None)
    columns = columns_of(name, data.features, wanted)
    classes = Classes.none(len(data))

    def values_of(column: str) -> list[Any]:
        return list(data.select_columns([column]).with_format("arrow")[:][column].to_pylist())

    if column := columns[1]:
        values = values_of(column)
        classes = _classes(
            name, column, [(data.features[column], values)], named=bool(wanted.label_column)
        )
    notes = [*notes, _used(data.features, columns)]
    facts = {"split": split, "kind": kind, "fingerprint": data._fingerprint, "group": wanted.group}
    groups = list(map(text_of, values_of(wanted.group))) if wanted.group else None
    return _read_table(name, data, classes, columns, notes, groups=groups, **facts)


def _used(features: Any, columns: tuple[str, str]) -> str:
    """What is taken of a table, in a line."""
    used = f"images from column {columns[0]!r}, "
    used += f"labels from {columns[1]!r}" if columns[1] else "no label column"
    rest = sorted(set(features) - set(columns))
    return used + f"; not used: {first_names(rest)}" * bool(rest)


def _read_table(
    name: str,
    data: Any,
    classes: Classes,
    columns: tuple[str, str],
    notes: Sequence[str],
    **facts: Any,
) -> ImageDataset:
    import datasets

    image_column, label_column = columns
    # A bad picture must not stop the others: bytes are decoded one row at a time.
    data = data.select_columns([image_column]).cast_column(
        image_column, datasets.Image(decode=False)
    )
    first = [
        cell
        for cell in data[:LOOKED_AT][image_column]
        if cell and (cell["bytes"] is not None or cell["path"])
    ]
    if first and all(cell["bytes"] is None and not Path(cell["path"]).exists() for cell in first):
        shown = repr(first[0]["path"][:60])
        raise UserError(
            f"column {image_column!r} of {name} holds no pictures and names no files: {shown}"
        )

    def read(i: int) -> Image.Image:
        cell = data[i][image_column]
        if cell is None or (cell["bytes"] is None and not cell["path"]):
            raise ValueError("the row has no picture")
        return open_picture(
            cell["bytes"] if cell["bytes"] is not None else Path(cell["path"]).read_bytes()
        )

    return labelled(
        read,
        classes,
        (*notes, classes.note),
        name=name,
        image_column=image_column,
        label_column=label_column,
        name_of=lambda i: f"row {i}",
        **facts,
    )


def _classes(
    name: str, column: str, parts: Sequence[tuple[Any, list[Any]]], named: bool
) -> Classes:
    """The classes of a column: its type and its values in every file. Files may name the same
    classes in other orders.

    UserError where some files have names for them and others have none.
    """
    import datasets

    values = [value for _, values in parts for value in values]
    with_names = [feature for feature, _ in parts if isinstance(feature, datasets.ClassLabel)]
    types = {
        "ClassLabel" if isinstance(feature, datasets.ClassLabel) else in_words(feature)
        for feature, _ in parts
    }
    if len(types) > 1:
        disagree = f"the files disagree about the column {column!r} ({', '.join(sorted(types))})"
        raise UserError(f"{name}: {disagree}: name one with --dataset")
    if with_names:
        names = list(
            dict.fromkeys(class_name for feature in with_names for class_name in feature.names)
        )
        given = [(value, feature.names) for feature, values in parts for value in values]
        texts = [
            of[value] if value is not None and 0 <= value < len(of) else None for value, of in given
        ]
        unknown = sum(value is not None and not -1 <= value < len(of) for value, of in given)
        classes = Classes.of_names(names, texts, unknown)
        if any(feature.names != with_names[0].names for feature in with_names):
            note = (
                "the files name their classes differently: united by "
                f"name{'; ' * bool(classes.note)}{classes.note}"
            )
            classes = replace(classes, note=note)
        return classes
    if fraction := fraction_among(values):
        fault = f"{column!r} holds {fraction}, no classes"
        if named:
            raise UserError(f"{name}: {fault}: name another column with --label-column, or none")
        return Classes.none(len(values), f"{fault}: no image has a label")
    return Classes.of(list(map(text_of, values)))
