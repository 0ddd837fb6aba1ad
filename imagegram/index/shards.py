"""The shards of an index: each is built and proved by itself, in whatever process, and leaves a marker."""

import multiprocessing
import os
import re
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from imagegram.cli import UserError
from imagegram.files import atomic, read_json, write_json
from imagegram.index.builders import build_table
from imagegram.index.folder import ENDING, changed_since, file_record
from imagegram.index.table import verify_table
from imagegram.machine import die_with_parent
from imagegram.tokens import SEPARATOR, TERMINATOR, IndexedImages, TokenFolder


@dataclass(frozen=True)
class Job:
    """One shard to build: images `first` to `stop` of the token folders, as number `number` of `building`."""

    token_folders: Sequence[Path]
    first: int
    stop: int
    number: int
    index_input: Path  # its own folder
    building: Path
    builder: str
    progress: bool

    @property
    def marker(self) -> Path:
        return self.building / f"shard-{self.number}.json"

    @property
    def images(self) -> int:
        return self.stop - self.first

    def done(self) -> bool:
        """Whether an earlier run finished this shard and nobody touched it since."""
        return self.marker.exists() and all(
            changed_since(self.building / name, entry) is None
            for name, entry in read_json(self.marker)["files"].items()
        )


def write_input(images: IndexedImages, first: int, stop: int, folder: Path) -> int:
    """Write tokenized.0 and offset.0 of images `first` to `stop`, see folder.py; returns the tokens."""
    n = stop - first
    stride = images.folders[0].manifest.tokens_per_image + 1
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(".tmp-*"):  # by a killed run
        left.unlink()
    with atomic(folder / "tokenized.0") as temporary, temporary.open("wb") as f:
        for tokens, _ in images.chunks(first, stop):
            if int(tokens.max()) >= TERMINATOR:
                raise UserError(f"a token of an image is below {TERMINATOR}, here is {tokens.max()}")
            rows = np.full((len(tokens), stride), SEPARATOR, "<u2")
            rows[:, 1:] = tokens
            rows.tofile(f)
        np.array(ENDING, "<u2").tofile(f)
    with atomic(folder / "offset.0") as temporary, temporary.open("wb") as f:
        for start in range(0, n + 1, 1 << 20):
            (2 * stride * np.arange(start, min(start + (1 << 20), n + 1), dtype="<u8")).tofile(f)
        np.array([2 * (stride * n + 1)], "<u8").tofile(f)
    return n * stride + len(ENDING)


def build_shard(job: Job) -> None:
    """Write the input, build and verify the table, link the corpus beside it, and leave the marker."""
    started = time.monotonic()
    images = IndexedImages([TokenFolder.open(path) for path in job.token_folders])
    count = write_input(images, job.first, job.stop, job.index_input)
    print(f"shard {job.number}: {job.images} images, sorting {count} suffixes", flush=True)
    table = job.building / f"table.{job.number}"
    used = build_table(job.index_input, table, job.builder, job.progress)
    built = time.monotonic()
    for name in ("tokenized", "offset"):
        source = job.index_input / f"{name}.0"
        target = job.building / f"{name}.{job.number}"
        target.unlink(missing_ok=True)
        try:
            target.hardlink_to(source)
        except OSError:  # another file system, or one without links
            shutil.copyfile(source, target)
    verify_table(np.memmap(job.building / f"tokenized.{job.number}", np.dtype("<u2"), "r"), table, job.progress)
    verified = time.monotonic()
    files = [job.building / f"{name}.{job.number}" for name in ("tokenized", "offset", "table")]
    times = {"seconds": round(built - started, 3), "verify_seconds": round(verified - built, 3)}
    entries = {file.name: file_record(file) for file in files}
    write_json(job.marker, {"images": job.images, "builder": used} | times | {"files": entries})
    print(
        f"shard {job.number}: table by {used} in {built - started:.1f} s, verified in {verified - built:.1f} s",
        flush=True,
    )


def shard_of(name: str) -> int | None:
    """The shard that a file of a growing index belongs to, finished or half written; None: to none.

    >>> shard_of("table.3"), shard_of(".tmp-17-shard-0.json"), shard_of("images.npy")
    (3, 0, None)
    """
    found = re.fullmatch(r"(?:\.tmp-\d+-)?(?:shard-(\d+)\.json|(?:tokenized|offset|table)\.(\d+)(?:-.*)?)", name)
    return int(found[1] or found[2]) if found else None


class _Progress:
    """A line after every shard but the last: how many are done, and how long the others will take."""

    def __init__(self, jobs: Sequence[Job]):
        self.number = len(jobs)
        self.images = sum(job.images for job in jobs)
        self.done = 0
        self.images_done = 0
        self.started = time.monotonic()

    def add(self, job: Job) -> None:
        self.done += 1
        self.images_done += job.images
        rate = self.images_done / (time.monotonic() - self.started)
        if self.done < self.number:
            left = (self.images - self.images_done) / rate
            print(f"{self.done} of {self.number} shards, {rate:.0f} images/s, about {left:.0f} s left", flush=True)


def run_jobs(jobs: Sequence[Job], workers: int) -> None:
    """Build the shards `jobs`, as many at a time as there are `workers`, and say after each how long the rest takes."""
    progress = _Progress(jobs)
    if workers == 1 or len(jobs) < 2:
        for job in jobs:
            build_shard(job)
            progress.add(job)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(jobs)), context, die_with_parent, (os.getpid(),)) as pool:
        try:
            futures = {pool.submit(build_shard, job): job for job in jobs}
            for future in as_completed(futures):
                future.result()
                progress.add(futures[future])
        except BrokenProcessPool:
            raise UserError(
                "a worker process was killed, possibly out of memory: lower WORKERS or SHARD_IMAGES"
            ) from None
        except BaseException:
            for process in multiprocessing.active_children():
                process.kill()
            raise
