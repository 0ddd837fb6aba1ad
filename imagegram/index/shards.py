"""The shards of an index: each is built and proved by itself, and leaves a marker."""

import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from imagegram.files import atomic, read_json, write_json
from imagegram.index.builders import build_table
from imagegram.index.folder import ENDING, changed_since, file_record
from imagegram.index.indexed import IndexedImages
from imagegram.index.table import verify_table
from imagegram.tokens import SEPARATOR


@dataclass(frozen=True)
class Job:
    """One shard to build, as number `number` of `building`."""

    number: int
    images: range  # of the indexed ones
    index_input: Path  # its own folder
    building: Path

    @property
    def marker(self) -> Path:
        return self.building / f"shard-{self.number}.json"

    def done(self) -> bool:
        """Whether an earlier run finished this shard and nobody touched it since."""
        return self.marker.exists() and not any(
            changed_since(self.building / name, entry)
            for name, entry in read_json(self.marker)["files"].items()
        )


def write_corpus(images: IndexedImages, some: range, file: Path) -> None:
    """Write some images as a flat corpus: a separator before each, and the ending of folder.py."""
    with atomic(file) as temporary, temporary.open("wb") as f:
        for tokens, _ in images.chunks(some):
            np.insert(tokens, 0, SEPARATOR, axis=1).astype("<u2").tofile(f)
        np.array(ENDING, "<u2").tofile(f)


def write_input(images: IndexedImages, job: Job) -> int:
    """Write tokenized.0 and offset.0 of a shard, see folder.py; returns its tokens."""
    n = len(job.images)
    stride = images.tokens_per_image + 1
    job.index_input.mkdir(parents=True, exist_ok=True)
    for left in job.index_input.glob(".tmp-*"):  # by a killed run
        left.unlink()
    write_corpus(images, job.images, job.index_input / "tokenized.0")
    with atomic(job.index_input / "offset.0") as temporary:
        separators = np.append(stride * np.arange(n + 1), stride * n + 1)
        (2 * separators).astype("<u8").tofile(temporary)
    return n * stride + len(ENDING)


def build_shard(job: Job, images: IndexedImages, builder: str, *, progress: bool) -> None:
    """Write the input, build and verify the table, link the corpus beside it, leave the marker."""
    started = time.monotonic()
    count = write_input(images, job)
    said = f"shard {job.number}:"
    print(f"{said} {len(job.images)} images, sorting {count} suffixes", flush=True)
    tokenized, offset, table = (
        job.building / f"{name}.{job.number}" for name in ("tokenized", "offset", "table")
    )
    used = build_table(job.index_input, table, builder, progress=progress)
    built = time.monotonic()
    for target in (tokenized, offset):
        source = job.index_input / f"{target.stem}.0"
        target.unlink(missing_ok=True)
        try:
            target.hardlink_to(source)
        except OSError:  # another file system, or one without links
            shutil.copyfile(source, target)
    verify_table(np.memmap(tokenized, np.dtype("<u2"), "r"), table, progress=progress)
    verified = time.monotonic()
    times = {"seconds": round(built - started, 3), "verify_seconds": round(verified - built, 3)}
    entries = {file.name: file_record(file) for file in (tokenized, offset, table)}
    write_json(job.marker, {"builder": used} | times | {"files": entries})
    print(
        f"{said} table by {used} in {built - started:.1f} s, verified in {verified - built:.1f} s",
        flush=True,
    )


def shard_of(name: str) -> int | None:
    """The shard that a file of a growing index belongs to, finished or half written; None: to none.

    >>> shard_of("table.3"), shard_of(".tmp-17-shard-0.json"), shard_of("images.npy")
    (3, 0, None)
    """
    found = re.fullmatch(
        r"(?:\.tmp-\d+-)?(?:shard-(\d+)\.json|(?:tokenized|offset|table)\.(\d+)(?:-.*)?)", name
    )
    return int(found[1] or found[2]) if found else None
