"""Labels that stand in a table beside the pictures: metadata.csv, metadata.jsonl or metadata.parquet.

The rule is that of `datasets.load_dataset("imagefolder")` (its folder_based_builder.py): a column `file_name` holds
paths from the table's own folder, and the folders are no labels. Two things differ, so that nothing is lost: pictures
that no row names are kept, without a label, and a table without a label column leaves the classes to the folders.
"""

import csv
import json
import posixpath
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imagegram.cli import UserError
from imagegram.data.dataset import LABEL_NAMES, first_names, printable
from imagegram.data.labels import from_files

NAMES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
FILE_NAME = "file_name"


@dataclass(frozen=True)
class Labels:
    """Labels int32 [n] of n pictures, the names of the classes, the column that they come from, and what to say."""

    labels: NDArray[np.int32]
    class_names: tuple[str, ...]
    column: str
    notes: list[str]


def read_labels(
    root: Path, tables: Sequence[str], pictures: list[str], everything: Iterable[str], wanted: str
) -> tuple[Labels | None, str]:
    """The labels that `tables` give to `pictures`, all as paths below `root`; None and the reason where they give none.

    `everything` are the pictures of all splits: rows that name one of those are no mistakes. `wanted` is the column,
    "" for one with a usual name. UserError where a table is damaged or has no such column.
    """
    if not tables:
        return None, ""
    # 1) The rows of all tables, by the picture that they name.
    found: dict[str, Mapping[str, Any]] = {}
    columns: dict[str, None] = {}
    strange = []
    for table in tables:
        rows = _read_rows(root / table)
        if not rows or FILE_NAME not in rows[0]:
            strange.append(table)
            continue
        folder = posixpath.dirname(table)
        for row in rows:
            columns |= dict.fromkeys(str(column) for column in row if column != FILE_NAME)
            found[posixpath.normpath(posixpath.join(folder, str(row[FILE_NAME])))] = row
    if not found and wanted:
        raise UserError(f"{first_names(strange)} has no column {FILE_NAME}: its labels belong to no picture")
    if not found:
        return None, f"{first_names(strange)} has no column {FILE_NAME}, and is not read"

    # 2) The column.
    column = wanted or next((name for name in LABEL_NAMES if name in columns), "")
    if wanted and wanted not in columns:
        raise UserError(f"{first_names(tables)} has no column {wanted!r}; it has {first_names(columns)}")
    if not column:
        return None, (
            f"{first_names(tables)} has no column {', '.join(LABEL_NAMES)}: the classes are the folders "
            f"(--label-column takes one of {first_names(columns)})"
        )

    # 3) The labels.
    texts = [_text(found[picture].get(column)) if picture in found else None for picture in pictures]
    labels, class_names, note = from_files(texts, [printable(picture) for picture in pictures])
    notes = [f"labels from column {column!r} of {first_names(tables)}", note]
    known = set(everything)
    if missing := [name for name in found if name not in known]:
        notes.append(f"rows that name no picture of the folder: {len(missing)}, e.g. {printable(missing[0])}")
    return Labels(labels, class_names, column, [line for line in notes if line]), ""


def _text(value: object) -> str | None:
    """A cell as text; None where it is empty. JSON and parquet have numbers: 3.0 is 3."""
    if value is None or value == "" or (isinstance(value, float) and np.isnan(value)):
        return None
    if isinstance(value, bool | np.bool_) or (isinstance(value, float) and value.is_integer()):
        return str(int(value))
    return str(value)


def _read_rows(path: Path) -> list[Mapping[str, Any]]:
    """The rows of a table; UserError where it is damaged."""
    try:
        if path.suffix == ".csv":
            with path.open(encoding="utf-8-sig", newline="") as f:
                return [row for row in csv.DictReader(f) if row.get(FILE_NAME) or FILE_NAME not in row]
        if path.suffix == ".jsonl":
            lines = path.read_text(encoding="utf-8").splitlines()
            return [row for line in lines if line.strip() and isinstance(row := json.loads(line), dict)]

        import pyarrow.parquet

        return list(pyarrow.parquet.read_table(path).to_pylist())
    except (OSError, ValueError, csv.Error) as error:  # pyarrow's errors are ValueErrors or OSErrors
        raise UserError(f"{printable(str(path))} cannot be read ({error}): mend it, or give it another name") from None
