"""Building an index: token folders -> flat corpora -> suffix tables, each proved right -> the finished folder.

Shards are independent of each other: several processes build them, each leaves a marker, and an interrupted build goes
on from the finished ones. The folder is built beside and renamed when all of it is there. Files: top of folder.py.
"""

import hashlib
import json
import multiprocessing
import os
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from imagegram.cli import UserError, summary
from imagegram.files import atomic, read_json, run_lock, write_json
from imagegram.index.builders import BUILDERS, build_table, find_tg_build_index
from imagegram.index.folder import ENDING, FORMAT, Index, IndexInfo, changed_since, file_record
from imagegram.index.table import MAX_TOKENS, verify_table
from imagegram.machine import die_with_parent, memory_available
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

    def done(self) -> bool:
        """Whether an earlier run finished this shard and nobody touched it since."""
        return self.marker.exists() and all(
            changed_since(self.building / name, entry) is None
            for name, entry in read_json(self.marker)["files"].items()
        )


def write_input(images: IndexedImages, first: int, stop: int, folder: Path) -> int:
    """Write tokenized.0 and offset.0 of images `first` to `stop`, see the top of this file; returns the tokens."""
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
    images = IndexedImages([TokenFolder.open(path) for path in job.token_folders], trusted=True)
    count = write_input(images, job.first, job.stop, job.index_input)
    print(f"shard {job.number}: {job.stop - job.first} images, sorting {count} suffixes", flush=True)
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
    write_json(job.marker, {"images": job.stop - job.first, "builder": used} | times | {"files": entries})
    print(
        f"shard {job.number}: table by {used} in {built - started:.1f} s, verified in {verified - built:.1f} s",
        flush=True,
    )


def _plan(images: IndexedImages, shard_images: int, workers: int, builder: str) -> int:
    """Images a shard. UserError where a shard is too large, for its format or for the memory at hand."""
    stride = images.folders[0].manifest.tokens_per_image + 1
    step = min(shard_images or len(images), len(images))
    most = (MAX_TOKENS - len(ENDING)) // stride
    if step > most:
        raise UserError(
            f"{step} images are {step * stride} tokens, a shard holds at most {MAX_TOKENS}: set SHARD_IMAGES={most}"
        )
    if builder == "auto":
        builder = "tg_build_index" if find_tg_build_index() else "divsufsort"
    each = BUILDERS[builder] * workers * stride
    available = memory_available()
    need = each * step * (1.8 if builder == "divsufsort" and step * stride >= 2**30 else 1)
    if need > available:
        raise UserError(
            f"building {workers} x {step} images with {builder} needs {need / 2**30:.1f} GiB of memory, "
            f"{available / 2**30:.1f} are available: SHARD_IMAGES={int(0.8 * available / each)}"
            + ", fewer WORKERS" * (workers > 1)
            + ", or BUILDER=divsufsort" * (builder == "tg_build_index")
        )
    return step


def _check_space(building: Path, tokens: int, builder: str) -> None:
    """UserError where the disk has no room for corpora of `tokens` and their tables: 2 bytes and at most 5 a token."""
    need = tokens * (17 if builder == "infini-gram" else 7)  # which writes tables of its parts, and merges them
    free = shutil.disk_usage(building).free
    if free < need:
        raise UserError(f"{building} needs {need / 1e6:.0f} MB, {free / 1e6:.0f} MB are free: free some space first")


def _run_jobs(jobs: Sequence[Job], workers: int) -> None:
    if workers == 1 or len(jobs) < 2:
        for job in jobs:
            build_shard(job)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(jobs)), context, die_with_parent, (os.getpid(),)) as pool:
        try:
            for future in as_completed([pool.submit(build_shard, job) for job in jobs]):
                future.result()
        except BrokenProcessPool:
            raise UserError(
                "a worker process was killed, possibly out of memory: lower WORKERS or SHARD_IMAGES"
            ) from None
        except BaseException:
            for process in multiprocessing.active_children():
                process.kill()
            raise


def _finished(out: Path, digest: str) -> Index | None:
    """The index in `out` where it is the one asked for, and whole."""
    try:
        if (out / "index.json").exists() and read_json(out / "index.json").get("hash") == digest:
            return Index.open(out)
    except UserError as error:
        print(f"not kept: {error}")
    return None


def _resume(building: Path, digest: str, jobs: Sequence[Job]) -> list[Job]:
    """Make or clean the folder in which an index grows; returns the jobs still to do."""
    asked = building / "request.json"
    if not (asked.exists() and read_json(asked) == digest):
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir(parents=True)
        write_json(asked, digest)
    done = [job for job in jobs if job.done()]
    keep = {asked.name, *(job.marker.name for job in done)}
    keep |= {name for job in done for name in read_json(job.marker)["files"]}
    for left in building.iterdir():  # by a killed run
        if left.name not in keep:
            shutil.rmtree(left) if left.is_dir() else left.unlink()
    if done:
        print(f"{len(done)} of {len(jobs)} shards are finished")
    return [job for job in jobs if job not in done]


def _finish(building: Path, digest: str, jobs: Sequence[Job], images: IndexedImages) -> None:
    """Write images.npy and index.json."""
    with atomic(building / "images.npy") as temporary:
        table = np.lib.format.open_memmap(temporary, "w+", np.int64, (len(images), 3))
        done = 0
        for _, identity in images.chunks(0, len(images)):
            table[done : done + len(identity)] = identity
            done += len(identity)
        table.flush()
    shards = [read_json(job.marker) for job in jobs]
    manifest = images.folders[0].manifest
    info: IndexInfo = {
        "format": FORMAT,
        "hash": digest,
        "builder": ", ".join(sorted({shard["builder"] for shard in shards})),
        "versions": {name: version(name) for name in ("fast-gram", "numpy")},
        "images": len(images),
        "shards": len(shards),
        "tokens_per_image": manifest.tokens_per_image,
        "vocab_size": manifest.vocab_size,
        "levels": list(manifest.levels),
        "codec": manifest.codec,
        "revision": manifest.revision,
        "sources": [str(folder.path.resolve()) for folder in images.folders],
        # The index and its tokens may move together: then these paths, from the index on, still lead there.
        "relative_sources": [os.path.relpath(folder.path.resolve(), building.resolve()) for folder in images.folders],
        "source_contents": [folder.contents() for folder in images.folders],
        "seconds": round(sum(shard["seconds"] for shard in shards), 3),
        "verify_seconds": round(sum(shard["verify_seconds"] for shard in shards), 3),
        "files": {name: entry for shard in shards for name, entry in shard["files"].items()}
        | {"images.npy": file_record(building / "images.npy")},
    }
    write_json(building / "index.json", info)


def _build(
    building: Path,
    digest: str,
    folders: Sequence[TokenFolder],
    index_input: Path,
    builder: str,
    shard_images: int,
    workers: int,
) -> None:
    """Build all shards in `building`, and complete it with index.json."""
    images = IndexedImages(folders)
    step = _plan(images, shard_images, workers, builder)
    parts = [(first, min(first + step, len(images))) for first in range(0, len(images), step)]
    inputs = [index_input if len(parts) == 1 else index_input / f"shard-{i}" for i in range(len(parts))]
    token_folders = [folder.path for folder in folders]
    jobs = [
        Job(token_folders, *part, i, source, building, builder, progress=workers == 1)
        for i, (part, source) in enumerate(zip(parts, inputs, strict=True))
    ]
    todo = _resume(building, digest, jobs)
    todo_tokens = (folders[0].manifest.tokens_per_image + 1) * sum(job.stop - job.first for job in todo)
    _check_space(building, todo_tokens, builder)
    _run_jobs(todo, workers)
    _finish(building, digest, jobs, images)


def _check_places(token_folders: Sequence[Path], index_input: Path, out: Path) -> None:
    """UserError where the build would replace or bury files that are not an index."""
    if out.is_dir() and not (out / "index.json").exists() and not (out / "index.json.wrong").exists():
        # An empty folder, or one that only carries the lock of an earlier attempt, is nobody's.
        if any(not file.name.startswith(".lock") for file in out.iterdir()):
            raise UserError(f"{out} holds files that are not an index: choose another folder for the index")
    elif out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: choose a folder for the index")
    target = out.resolve()
    for kept in (*token_folders, index_input):
        other = kept.resolve()
        if target == other or target in other.parents or other in target.parents:
            raise UserError(f"the index {out} and {kept} lie in each other: choose another folder for the index")


def build_index(
    token_folders: Sequence[Path],
    index_input: Path,
    out: Path,
    builder: str = "auto",
    shard_images: int = 0,
    workers: int = 1,
) -> Index:
    """Build, verify and open the index of `token_folders`; a finished one of the same input is left alone.

    `builder` is one of BUILDERS, or "auto": tg_build_index where it is found, else divsufsort. All give the same bytes.
    `shard_images` splits the images into shards (0: one), of which `workers` processes build one each at a time.
    Finished shards of an interrupted run are kept. UserError on bad input or a wrong table; `out` then is what it was.
    A folder `out` is replaced only where it holds an index. A link is followed: its target is replaced, the link stays.
    """
    _check_places(token_folders, index_input, out)
    shown = out
    out = out.resolve() if out.is_symlink() else out
    if builder == "numpy":
        print("the builder numpy is no more: divsufsort writes the same bytes")
        builder = "divsufsort"
    if builder not in ("auto", *BUILDERS):
        raise UserError(f"unknown builder {builder!r}: auto, {', '.join(BUILDERS)}")
    folders = [TokenFolder.open(path) for path in token_folders]
    for folder in folders:
        folder.check_readable()
    request = FORMAT, [folder.contents() for folder in folders], shard_images
    digest = hashlib.sha256(json.dumps(request).encode()).hexdigest()[:16]
    with run_lock(out.parent, f".lock-{out.name}"), run_lock(index_input):
        old, building = (out.parent / f".{what}-{out.name}" for what in ("old", "building"))
        shutil.rmtree(old, ignore_errors=True)  # of a run killed at its very end
        if index := _finished(out, digest):
            print(f"{shown} is finished, nothing to build")
            return index
        started = time.monotonic()
        if not _finished(building, digest):  # it is where a run was killed before the next lines
            _build(building, digest, folders, index_input, builder, shard_images, workers)
        keep = {"index.json", *read_json(building / "index.json")["files"]}
        for file in building.iterdir():
            if file.name not in keep:
                file.unlink()
        if out.exists():
            out.rename(old)
        building.rename(out)
        shutil.rmtree(old, ignore_errors=True)
    index = Index.open(out)
    summary(
        index=shown,
        images=index.num_images,
        shards=len(index.shards),
        builder=index.info["builder"],
        build_seconds=index.info["seconds"],
        verify_seconds=index.info["verify_seconds"],
        seconds=time.monotonic() - started,
    )
    return index
