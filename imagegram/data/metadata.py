"""Labels in a table beside the pictures: metadata.csv, metadata.jsonl or metadata.parquet.

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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagegram.cli import UserError
from imagegram.data.columns import LABEL_NAMES
from imagegram.data.labels import Classes, text_of
from imagegram.data.wording import first_names, printable

NAMES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
FILE_NAME = "file_name"


@dataclass(frozen=True)
class Tables:
    """The rows of all tables that lie beside pictures."""

    names: str  # of the tables, in a line
    rows: dict[str, list[Mapping[str, Any]]]  # by the path below the root that they name
    columns: list[str]

    @classmethod
    def read(cls, root: Path, files: Sequence[str]) -> "Tables":
        """The tables at paths below `root`; UserError where one is damaged."""
        rows: dict[str, list[Mapping[str, Any]]] = {}
        columns: dict[str, None] = {}
        for file in files:
            for row in _read_rows(root / file):
                columns |= dict.fromkeys(column for column in row if column != FILE_NAME)
                if name := row.get(FILE_NAME):
                    place = _place(root, posixpath.dirname(file), str(name))
                    rows.setdefault(place, []).append(row)
        return cls(first_names(files), rows, list(columns))

    def labels(
        self, pictures: list[str], everything: Iterable[str], wanted: str
    ) -> tuple[Classes | None, str, list[str]]:
        """The classes of `pictures` (None: no labels), their column, and what to say.

        `everything` are the pictures of all splits: rows that name one of those are no mistakes.
        `wanted` is the column, "" for one with a usual name; UserError where there is no such one.
        """
        if not self.names:
            return None, "", []
        column = wanted or next((name for name in LABEL_NAMES if name in self.columns), "")
        if not self.rows or column not in self.columns:
            wished = wanted or ", ".join(LABEL_NAMES)
            other = f"column {wished}; it has {first_names(self.columns)}"
            none = f"column {FILE_NAME}, or no rows"
            fault = f"{self.names} has no {other if self.rows else none}"
            if wanted:
                raise UserError(f"{fault}: its labels belong to no picture")
            remedy = " (--label-column takes another)" * bool(self.rows)
            return None, "", [f"{fault}: the classes are the folders{remedy}"]
        classes = Classes.of(self.texts(pictures, column, "labels"))
        notes = [f"labels from column {column!r} of {self.names}", classes.note]
        known = set(everything)
        if missing := [name for name in self.rows if name not in known]:
            what = f"rows that name no picture of the folder: {len(missing)}"
            notes.append(f"{what}, e.g. {printable(missing[0])}")
        return classes, column, notes

    def texts(self, pictures: list[str], column: str, what: str) -> list[str]:
        """What the rows of each picture say in a column, or ""; UserError where they disagree."""
        texts = {
            picture: {(text_of(row.get(column)) or "").strip() for row in rows}
            for picture, rows in self.rows.items()
        }
        if wrong := [picture for picture, several in texts.items() if len(several) > 1]:
            example = f"{printable(wrong[0])} is {' and '.join(map(repr, sorted(texts[wrong[0]])))}"
            fault = f"{self.names}: {len(wrong)} pictures have two {what} ({example})"
            raise UserError(f"{fault}: mend the rows, or take one column")
        return ["".join(texts.get(picture, ())) for picture in pictures]


def _place(root: Path, folder: str, name: str) -> str:
    """The path below `root` that a row of a table in `folder` names, with whatever slashes."""
    whole = Path(name.strip().replace("\\", "/"))
    if whole.is_absolute() and whole.is_relative_to(root.absolute()):
        return str(whole.relative_to(root.absolute()))
    return posixpath.normpath(posixpath.join(folder, whole))


def _read_rows(path: Path) -> list[Mapping[str, Any]]:
    """The rows of a table, usual columns in lower case; UserError where it is damaged."""
    try:
        if path.suffix == ".parquet":
            import pyarrow.parquet

            rows = pyarrow.parquet.read_table(path).to_pylist()
        else:
            data = path.read_bytes()
            text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
            if path.suffix == ".jsonl":  # str.splitlines would end lines within strings
                lines = [json.loads(line) for line in text.split("\n") if line.strip()]
                rows = [row for row in lines if isinstance(row, dict)]
            else:
                separator = max(",;\t", key=text.partition("\n")[0].count)
                cells = io.StringIO(text, newline="")
                rows = [*csv.DictReader(cells, delimiter=separator, skipinitialspace=True)]
    # pyarrow's errors are ValueErrors or OSErrors
    except (OSError, ValueError, csv.Error) as error:
        fault = f"{printable(str(path))} cannot be read ({error})"
        raise UserError(f"{fault}: mend it, or give it another name") from None

    def column(name: str) -> str:
        lower = name.strip().lower()
        return lower if lower in (FILE_NAME, *LABEL_NAMES) else name.strip()

    return [{column(name): row[name] for name in row if name is not None} for row in rows]
