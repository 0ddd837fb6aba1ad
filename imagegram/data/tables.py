"""Tables with a column of pictures, through the library `datasets`: the hub's, saved, parquet."""

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from imagegram.cli import UserError
from imagegram.data.columns import LABEL_NAMES, columns_of, has_names, image_candidates, in_words
from imagegram.data.contents import Part, contents_of, digest, open_picture
from imagegram.data.dataset import NO_SPLITS, DatasetOptions, ImageDataset
from imagegram.data.labels import Classes, choose, fraction_among, labelled
from imagegram.data.survey import Tree
from imagegram.data.wording import first_names, taken

LOOKED_AT = 20  # rows, to see whether a column of text names files
REMEDY = (
    "check the name and the connection, or give digits, shapes, a folder of images, of .tar "
    "files, of parquet files, of IDX files, or one saved by datasets"
)
PARTITION = re.compile(rf"(?:^|/)(?:{'|'.join(LABEL_NAMES)})=([^/]+)/", re.IGNORECASE)
File = tuple[Any, Callable[[str], list[Any]]]  # of a table: its features, the values of a column


def read_hub(name: str, wanted: DatasetOptions) -> ImageDataset:
    """A data set of the hub, or of its cache."""
    import datasets

    split = wanted.split or "train"
    nowhere = f"there is no file or folder {name} in {Path.cwd()} either"
    with _errors_in_one_line(name, split, f"{nowhere}; {REMEDY}"):
        data = datasets.load_dataset(name, split=split)
    return _read_whole(name, data, split, wanted, kind="a data set of the Hugging Face hub")


def read_saved(name: str, wanted: DatasetOptions) -> ImageDataset:
    """What `save_to_disk` wrote: one data set, or several splits."""
    import datasets

    split, note = wanted.split, ""
    with _errors_in_one_line(name, split, "its files are incomplete or damaged, save it again"):
        data = datasets.load_from_disk(name)
    if isinstance(data, datasets.DatasetDict):
        split, note = choose(name, list(data), split)
        data = data[split]
    elif split and split != str(data.split):
        raise UserError(
            f"--split {split} does not apply: {name} is one saved data set. Leave the option out"
        )
    return _read_whole(name, data, split or "train", wanted, kind="a saved data set", note=note)


def read_parquet(name: str, tree: Tree, wanted: DatasetOptions) -> ImageDataset:
    """Parquet files, as downloaded from the hub; `datasets` makes a copy in its cache."""
    import pyarrow.parquet

    split, files, note = tree.of_split(name, "tables", wanted)
    paths = [tree.root / file for file in files]
    parts = [_features(path) for path in paths]
    counts = [pyarrow.parquet.read_metadata(path).num_rows for path in paths]
    if not sum(counts):
        raise UserError(f"the data set {name!r} has no images: its parquet files have no rows")
    contents = contents_of([Part(path) for path in paths])
    fingerprint = digest(contents.named(map(os.fsencode, files)))

    # Only the columns that are needed are read: of each file its own labels, in its own words.
    columns = columns_of(name, parts[0], wanted)
    needed = {*columns, wanted.group} - {""}
    if not all(needed <= set(features) for features in parts):
        i = next(i for i, features in enumerate(parts) if set(features) != set(parts[0]))
        both = f"the columns {first_names(parts[0])}, {paths[i].name} has {first_names(parts[i])}"
        fault = f"cannot load the data set {name!r}: {paths[0].name} has {both}"
        raise UserError(f"{fault}: name one file, or mend them")
    remedy = "if its cache cannot be written, HF_HOME=FOLDER names another place for it"
    with _errors_in_one_line(name, split, remedy):
        data = _load(paths, columns[0], parts[0][columns[0]], fingerprint)
    table: list[File] = list(zip(parts, [partial(_values, path) for path in paths], strict=True))
    if columns[1]:
        classes = _classes(name, columns[1], table, wanted)
    else:  # label=cat/0.parquet, of a partitioned table
        keys = [found[1] if (found := PARTITION.search(file)) else "" for file in files]
        rows = zip(keys, counts, strict=True)
        classes = Classes.of([key for key, count in rows for _ in range(count)])
    return _read_table(
        name,
        data,
        classes,
        columns,
        table,
        [note, contents.note],
        group=wanted.group,
        split=split,
        kind=f"{len(files)} parquet file{'s' * (len(files) > 1)}",
        fingerprint=digest([fingerprint.encode(), classes.labels.tobytes(), *classes.identity()]),
        left_out=tree.left_out(),
    )


def _load(paths: Sequence[Path], column: str, feature: Any, fingerprint: str) -> Any:
    """A column of parquet files, through the cache of `datasets`."""
    import datasets

    # The cache knows files by path and date: without a name of our own it gives the former content
    # of a file that was rewritten with its date kept.
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
    """The columns of a parquet file; types that `datasets` does not know as pyarrow's words."""
    import datasets
    import pyarrow
    import pyarrow.parquet

    try:
        schema = pyarrow.parquet.read_schema(path)
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} is damaged ({reason}): download or write it again") from None
    found: dict[str, Any] = {}
    for field in schema:
        one = pyarrow.schema([field], metadata=schema.metadata)
        try:
            found |= datasets.Features.from_arrow_schema(one)
        except (ValueError, TypeError):
            found[field.name] = str(field.type)
    return found


def image_columns(path: Path) -> list[str]:
    """The columns of a parquet file that may be pictures; UserError where it is damaged."""
    return image_candidates(_features(path))


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


def _read_whole(
    name: str, data: Any, split: str, wanted: DatasetOptions, *, kind: str, note: str = ""
) -> ImageDataset:
    """A table of `datasets`, in whatever format it was saved."""
    data = data.with_format(None)
    columns = columns_of(name, data.features, wanted)

    def values_of(column: str) -> list[Any]:
        return list(data.select_columns([column]).with_format("arrow")[:][column].to_pylist())

    table = [(data.features, values_of)]
    unlabelled = Classes.none(len(data))
    classes = _classes(name, columns[1], table, wanted) if columns[1] else unlabelled
    facts = {"split": split, "kind": kind, "fingerprint": data._fingerprint, "group": wanted.group}
    return _read_table(name, data, classes, columns, table, [note], **facts)


def _read_table(
    name: str,
    data: Any,
    classes: Classes,
    columns: tuple[str, str],
    files: Sequence[File],
    notes: Sequence[str],
    **facts: Any,
) -> ImageDataset:
    """The rows of `data`, which may stand in several `files`."""
    import datasets

    image_column, label_column = columns
    rest = sorted(set(files[0][0]) - set(columns))
    labels = repr(label_column) if label_column else ""
    used = taken(f"column {image_column!r}", labels, rest, none="no label column")
    groups = None
    if group := facts["group"]:
        groups = [value for _, values_of in files for value in values_of(group)]

    # A bad picture must not stop the others: bytes are decoded one row at a time.
    undecoded = datasets.Image(decode=False)
    data = data.select_columns([image_column]).cast_column(image_column, undecoded)

    def is_empty(cell: Any) -> bool:
        return not cell or (cell["bytes"] is None and not cell["path"])

    first = [cell for cell in data[:LOOKED_AT][image_column] if not is_empty(cell)]
    if first and all(cell["bytes"] is None and not Path(cell["path"]).exists() for cell in first):
        column = f"column {image_column!r} of {name}"
        path = first[0]["path"][:60]
        raise UserError(f"{column} holds no pictures and names no files: {path!r}")

    def read(i: int) -> Image.Image:
        cell = data[i][image_column]
        if is_empty(cell):
            raise ValueError("the row has no picture")
        content = cell["bytes"]
        return open_picture(Path(cell["path"]).read_bytes() if content is None else content)

    return labelled(
        read,
        classes,
        (*notes, used, classes.note),
        groups,
        name=name,
        image_column=image_column,
        label_column=label_column,
        name_of=lambda i: f"row {i}",
        **facts,
    )


def _classes(name: str, column: str, files: Sequence[File], wanted: DatasetOptions) -> Classes:
    """The classes of a column, which files may name in other orders.

    UserError where some files have names for them and others have none.
    """
    features = [columns[column] for columns, _ in files]
    values = [values_of(column) for _, values_of in files]
    types = {"ClassLabel" if has_names(one) else in_words(one) for one in features}
    if len(types) > 1:
        disagree = f"the files disagree about the column {column!r} ({', '.join(sorted(types))})"
        raise UserError(f"{name}: {disagree}: name one with --dataset")
    if not has_names(features[0]):
        cells = [value for part in values for value in part]
        if wanted.label_column and (fraction := fraction_among(cells)):
            fault = f"{name}: {column!r} holds {fraction}, no classes"
            raise UserError(f"{fault}: name another column with --label-column, or none")
        return Classes.of_cells(cells, f"{column!r} holds")
    texts: list[str | None] = []
    unknown = 0
    for feature, part in zip(features, values, strict=True):
        names = dict(enumerate(feature.names))
        texts += map(names.get, part)
        unknown += sum(value not in names for value in part if value not in (None, -1))
    united = list(dict.fromkeys(one for feature in features for one in feature.names))
    classes = Classes.of_names(united, texts, unknown)
    if any(feature.names != features[0].names for feature in features):
        note = "the files name their classes differently: united by name"
        classes = replace(classes, note="; ".join(filter(None, (note, classes.note))))
    return classes
