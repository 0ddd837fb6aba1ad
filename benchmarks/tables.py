"""Tables of measurements as CSV files, which the same command completes."""

import csv
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

from imagegram.files import atomic

Row = TypeVar("Row")


def write_rows(path: Path, rows: Sequence[Any]) -> None:
    """Write dataclasses of one kind as a table, numbers to four digits."""
    with atomic(path) as temporary, temporary.open("w", newline="") as f:
        table = csv.DictWriter(f, [field.name for field in fields(rows[0])], lineterminator="\n")
        table.writeheader()
        for row in rows:
            values = asdict(row).items()
            table.writerow({key: f"{value:.4g}" if isinstance(value, float) else value for key, value in values})


def read_rows(path: Path, kind: type[Row]) -> list[Row]:
    """The rows of a table as dataclasses of text, whole numbers and floats; none where there is no table."""
    if not path.exists():
        return []
    convert: dict[str, Any] = {field.name: field.type for field in fields(kind)}  # type: ignore[arg-type]
    with path.open(newline="") as f:
        return [kind(**{key: of(line[key]) for key, of in convert.items()}) for line in csv.DictReader(f)]
