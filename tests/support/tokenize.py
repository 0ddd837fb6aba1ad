"""Tokenizing with the options spelt out, for the tests."""

from pathlib import Path
from typing import Any

from imagegram.data.spec import DatasetSpec
from imagegram.machine import Processes
from imagegram.options import Options
from imagegram.tokenizing import tokenize_dataset
from imagegram.tokens import TokenFolder


def tokenize(
    dataset: str, out: Path, rank: int = 0, world_size: int = 1, **options: Any
) -> TokenFolder:
    """`tokenize_dataset`, its options given one by one."""
    given = {
        name: options.pop(name)
        for name in ("split", "images", "image_column", "label_column", "group")
        if name in options
    }
    return tokenize_dataset(
        DatasetSpec(dataset, **given), out, Options(**options), Processes(rank, world_size)
    )


def contents(folder: Path) -> dict[str, bytes]:
    """The arrays and the bad images of a token folder, byte for byte.

    A process killed while it wrote bad.jsonl leaves its unfinished copy, which may as well be that
    of a live one.
    """
    files = (f for f in sorted(folder.iterdir()) if f.suffix in (".npy", ".jsonl"))
    return {f.name: f.read_bytes() for f in files if not f.name.endswith("-bad.jsonl")}
