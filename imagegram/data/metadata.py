"""Labels that stand in a table beside the pictures: metadata.csv, metadata.jsonl or
metadata.parquet.

The rule is that of `datasets.load_dataset("imagefolder")` (its folder_based_builder.py): a column
`file_name` holds paths from the table's own folder, and the folders are no labels. Two things
differ, so that nothing is lost: pictures that no row names are kept, without a label, and a table
without a label column leaves the classes to the folders.
"""

import csv
import io
import json
import posixpath
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from imagegram.cli import UserError
from imagegram.data.dataset import LABEL_NAMES, first_names, printable
from imagegram.data.labels import Classes, text_of

NAMES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
FILE_NAME = "file_name"


def read_labels(
    root: Path, tables: Sequence[str], pictures: list[str], everything: Iterable[str], wanted: str
) -> tuple[Classes | None, str, list[str]]:
    """The labels that `tables` give to `pictures`, all as paths below `root`: classes, column, and
    what to say.

    None where they give none. `everything` are the pictures of all splits: rows that name one of
    those are no mistakes. `wanted` is the column, "" for one with a usual name. UserError where a
    table is damaged, has no such column, or gives a picture two labels.
    """
    if not tables:
        return None, "", []
    found, columns = _rows_of(root, tables)
    names = first_names(tables)
    column = wanted or next((name for name in LABEL_NAMES if name in columns), "")
    if not found or column not in columns:
        lacking = f"column {wanted or ', '.join(LABEL_NAMES)}; it has {first_names(columns)}"
        fault = f"{names} has no {lacking if found else f'column {FILE_NAME}, or no rows'}"
        if wanted:
            raise UserError(f"{fault}: its labels belong to no picture")
        return (
            None,
            "",
            [
                (
                    f"{fault}: the classes are the "
                    f"folders{' (--label-column takes another)' * bool(found)}"
                )
            ],
        )
    classes = Classes.of(_texts(names, found, column, pictures, "labels"))
    notes = [f"labels from column {column!r} of {names}", classes.note]
    known = set(everything)
    if missing := [name for name in found if name not in known]:
        notes.append(
            f"rows that name no picture of the folder: {len(missing)}, e.g. {printable(missing[0])}"
        )
    return classes, column, notes


def read_groups(
    root: Path, tables: Sequence[str], pictures: list[str], column: str
) -> tuple[list[str], list[str]]:
    """The text that `tables` give to each of `pictures` in a column, "" for none, and all columns;
    without that column no texts."""
    found, columns = _rows_of(root, tables)
    return _texts(
        first_names(tables), found, column, pictures, "groups"
    ) if column in columns else [], columns


Rows = dict[str, list[Mapping[str, Any]]]  # by the picture that they name


def _rows_of(root: Path, tables: Sequence[str]) -> tuple[Rows, list[str]]:
    """The rows of all tables, and their columns."""
    found: Rows = {}
    columns: dict[str, None] = {}
    for table in tables:
        for row in _read_rows(root / table):
            columns |= dict.fromkeys(column for column in row if column != FILE_NAME)
            if name := row.get(FILE_NAME):
                found.setdefault(_place(root, posixpath.dirname(table), str(name)), []).append(row)
    return found, list(columns)


def _texts(names: str, found: Rows, column: str, pictures: list[str], what: str) -> list[str]:
    """What the rows of each picture say in a column, "" where nothing; UserError where they say two
    things."""
    texts = {
        picture: {(text_of(row.get(column)) or "").strip() for row in given}
        for picture, given in found.items()
    }
    if wrong := [picture for picture, several in texts.items() if len(several) > 1]:
        example = f"{printable(wrong[0])} is {' and '.join(map(repr, sorted(texts[wrong[0]])))}"
        raise UserError(
            f"{names}: {len(wrong)} pictures have two {what} ({example}): mend the rows, or take "
            "one column"
        )
    return [next(iter(texts.get(picture, {""}))) for picture in pictures]


def _place(root: Path, folder: str, name: str) -> str:
    """The path below `root` that a row of a table in `folder` names: with slashes, backslashes, or
    from the root."""
    whole = Path(name.strip().replace("\\", "/"))
    if whole.is_absolute() and whole.is_relative_to(root.absolute()):
        return str(whole.relative_to(root.absolute()))
    return posixpath.normpath(posixpath.join(folder, whole))


def _read_rows(path: Path) -> list[Mapping[str, Any]]:
    """The rows of a table, capitals and spaces of its column `file_name` aside; UserError where it
    is damaged."""
    try:
        if path.suffix == ".parquet":
            import pyarrow.parquet

            rows = pyarrow.parquet.read_table(path).to_pylist()
        else:
            data = path.read_bytes()
            text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
            if path.suffix == ".jsonl":  # str.splitlines would end lines within strings
                rows = [
                    row
                    for line in text.split("\n")
                    if line.strip() and isinstance(row := json.loads(line), dict)
                ]
            else:
                separator = max(",;\t", key=text.partition("\n")[0].count)
                rows = list(
                    csv.DictReader(
                        io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True
                    )
                )
    # pyarrow's errors are ValueErrors or OSErrors
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(
            f"{printable(str(path))} cannot be read ({error}): mend it, or give it another name"
        ) from None
    return [
        {_column(name): value for name, value in row.items() if name is not None} for row in rows
    ]


def _column(name: str) -> str:
    """The name of a column, as it is compared."""
    lower = str(name).strip().lower()
    return lower if lower in (FILE_NAME, *LABEL_NAMES) else str(name).strip()
