"""Tokenizing with the options spelt out, for the tests."""

from dataclasses import fields
from pathlib import Path
from typing import Any

from imagegram.data.dataset import DatasetOptions
from imagegram.data.spec import DatasetSpec
from imagegram.machine import Processes
from imagegram.options import Options
from imagegram.tokenizing import tokenize_dataset
from imagegram.tokens import TokenFolder


def tokenize(
    dataset: str, out: Path, rank: int = 0, world_size: int = 1, **options: Any
) -> TokenFolder:
    """`tokenize_dataset`, its options given one by one."""
    of_the_data = {field.name for field in fields(DatasetOptions)} & options.keys()
    spec = DatasetSpec(dataset, **{name: options.pop(name) for name in of_the_data})
    return tokenize_dataset(spec, out, Options(**options), Processes(rank, world_size))


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of arrays and bad images; not the unfinished bad.jsonl of a killed process."""
    files = (f for f in sorted(folder.iterdir()) if f.suffix in (".npy", ".jsonl"))
    return {f.name: f.read_bytes() for f in files if not f.name.endswith("-bad.jsonl")}
