"""Building an index: token folders -> flat corpora -> suffix tables, each proved right -> the finished folder.

Shards are independent of each other: several processes build them, each leaves a marker, and an interrupted build goes
on from the finished ones. The folder is built beside and renamed when all of it is there. Files: top of index.py.
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

from imagegram.common import (
    UserError,
    atomic,
    die_with_parent,
    memory_available,
    read_json,
    run_lock,
    sha256,
    summary,
    write_json,
)
from imagegram.index import ENDING, FORMAT, Index, difference, entry_of
from imagegram.shards import SEPARATOR, TERMINATOR, IndexedImages, TokenFolder
from imagegram.suffix_array import (
    MAX_TOKENS,
    build_with_divsufsort,
    build_with_fastgram,
    build_with_infini_gram,
    find_infini_gram,
    find_tg_build_index,
    suits_fastgram,
    verify_table,
)

BUILDERS = ("auto", "tg_build_index", "divsufsort", "infini-gram")


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
            difference(self.building / name, entry) is None for name, entry in read_json(self.marker)["files"].items()
        )


def write_input(images: IndexedImages, first: int, stop: int, folder: Path) -> int:
    """Write tokenized.0 and offset.0 of images `first` to `stop`, see the top of this file; returns the tokens."""
    n, stride = stop - first, images.folders[0].manifest.tokens_per_image + 1
    folder.mkdir(parents=True, exist_ok=True)
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


def _build_table(source: Path, table: Path, builder: str, progress: bool) -> str:
    """Build one shard's table with the builder asked for; returns the name of the one that did it."""
    tokens = np.memmap(source / "tokenized.0", np.dtype("<u2"), "c")  # pydivsufsort wants to be able to write
    tool = find_tg_build_index() if builder in ("auto", "tg_build_index") else None
    if builder == "tg_build_index" and not tool:
        raise UserError("tg_build_index is not found: set TG_BUILD_INDEX, or use BUILDER=divsufsort")
    if tool and (builder == "tg_build_index" or suits_fastgram(len(tokens))):
        build_with_fastgram(tool, source, table)
        return f"tg_build_index ({tool})"
    if builder == "infini-gram":
        if not (program := find_infini_gram()):
            raise UserError("the package infini-gram is not installed: pip install infini-gram, or BUILDER=divsufsort")
        build_with_infini_gram(program, source, table)
        return f"infini-gram {version('infini-gram')}"
    build_with_divsufsort(tokens, table, progress)
    return f"pydivsufsort {version('pydivsufsort')}"


def build_shard(job: Job) -> None:
    """Write the input, build and verify the table, link the corpus beside it, and leave the marker."""
    started = time.monotonic()
    images = IndexedImages([TokenFolder.open(path) for path in job.token_folders], trusted=True)
    count = write_input(images, job.first, job.stop, job.index_input)
    print(f"shard {job.number}: {job.stop - job.first} images, sorting {count} suffixes", flush=True)
    table = job.building / f"table.{job.number}"
    used = _build_table(job.index_input, table, job.builder, job.progress)
    built = time.monotonic()
    for name in ("tokenized", "offset"):
        source, target = job.index_input / f"{name}.0", job.building / f"{name}.{job.number}"
        target.unlink(missing_ok=True)
        try:
            target.hardlink_to(source)
        except OSError:  # another file system, or one without links
            shutil.copyfile(source, target)
    verify_table(np.memmap(job.building / f"tokenized.{job.number}", np.dtype("<u2"), "r"), table, job.progress)
    verified = time.monotonic()
    files = [job.building / f"{name}.{job.number}" for name in ("tokenized", "offset", "table")]
    times = {"seconds": round(built - started, 3), "verify_seconds": round(verified - built, 3)}
    entries = {file.name: entry_of(file) for file in files}
    write_json(job.marker, {"images": job.stop - job.first, "builder": used} | times | {"files": entries})
    print(
        f"shard {job.number}: table by {used} in {built - started:.1f} s, verified in {verified - built:.1f} s",
        flush=True,
    )


def _plan(images: IndexedImages, shard_images: int, workers: int, builder: str) -> int:
    """Images a shard. UserError where a shard is too large, for its format or for the memory at hand."""
    stride, step = images.folders[0].manifest.tokens_per_image + 1, min(shard_images or len(images), len(images))
    most = (MAX_TOKENS - len(ENDING)) // stride
    if step > most:
        raise UserError(f"{step} images are {step * stride} tokens, a shard holds {MAX_TOKENS}: SHARD_IMAGES={most}")
    tokens = step * stride + len(ENDING)
    need, available = workers * tokens * (10 if tokens < 2**30 else 18), memory_available()
    if builder in ("auto", "divsufsort") and need > available:
        less = int(0.8 * available / (10 * workers * stride))
        raise UserError(
            f"sorting {workers} x {step} images needs {need / 2**30:.1f} GiB of memory, {available / 2**30:.1f} are "
            f"available: SHARD_IMAGES={less}, fewer WORKERS, or BUILDER=infini-gram"
        )
    return step


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
            raise UserError("a worker was killed, by a lack of memory?: take fewer WORKERS or SHARD_IMAGES") from None
        except BaseException:
            for process in multiprocessing.active_children():
                process.kill()
            raise


def build_index(
    token_folders: Sequence[Path],
    index_input: Path,
    out: Path,
    builder: str = "auto",
    shard_images: int = 0,
    workers: int = 1,
) -> Index:
    """Build, verify and open the index of `token_folders`; a finished one of the same input is left alone.

    `builder` is one of BUILDERS; all give the same bytes. `shard_images` splits the images into shards (0: one), of
    which `workers` processes build one each at a time. Finished shards of an interrupted run are kept. UserError on bad
    input or a wrong table; `out` then is what it was before.
    """
    if builder not in BUILDERS:
        raise UserError(f"unknown builder {builder!r}: one of {', '.join(BUILDERS)}")
    folders = [TokenFolder.open(path) for path in token_folders]
    markers = [sha256(f.path / f"shard-{s:05d}.json") for f in folders for s in range(f.shards) if not f.problem(s)]
    request = FORMAT, [f.manifest.to_json() for f in folders], markers, shard_images
    digest = hashlib.sha256(json.dumps(request).encode()).hexdigest()[:16]
    with run_lock(out.parent, f".lock-{out.name}"):
        if (out / "index.json").exists() and read_json(out / "index.json")["hash"] == digest:
            print(f"{out} is finished, nothing to build")
            return Index.open(out)
        started = time.monotonic()
        images = IndexedImages(folders)
        step = _plan(images, shard_images, workers, builder)
        building = out.parent / f".building-{out.name}"
        asked = building / "request.json"
        if not (asked.exists() and read_json(asked) == digest):
            shutil.rmtree(building, ignore_errors=True)
            building.mkdir(parents=True)
            write_json(asked, digest)
        parts = [(first, min(first + step, len(images))) for first in range(0, len(images), step)]
        inputs = [index_input if len(parts) == 1 else index_input / f"shard-{i}" for i in range(len(parts))]
        jobs = [
            Job(token_folders, *part, i, source, building, builder, progress=workers == 1)
            for i, (part, source) in enumerate(zip(parts, inputs, strict=True))
        ]
        todo = [job for job in jobs if not job.done()]
        if len(todo) < len(jobs):
            print(f"{len(jobs) - len(todo)} of {len(jobs)} shards are finished")
        _run_jobs(todo, workers)
        with atomic(building / "images.npy") as temporary:
            table = np.lib.format.open_memmap(temporary, "w+", np.int64, (len(images), 3))
            done = 0
            for _, identity in images.chunks(0, len(images)):
                table[done : done + len(identity)] = identity
                done += len(identity)
            table.flush()
        shards = [read_json(job.marker) for job in jobs]
        manifest = folders[0].manifest
        info = {
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
            "sources": [str(path) for path in token_folders],
            "seconds": round(sum(shard["seconds"] for shard in shards), 3),
            "verify_seconds": round(sum(shard["verify_seconds"] for shard in shards), 3),
            "files": {name: entry for shard in shards for name, entry in shard["files"].items()}
            | {"images.npy": entry_of(building / "images.npy")},
        }
        write_json(building / "index.json", info)
        keep = {"index.json", *info["files"]}
        for file in building.iterdir():
            if file.name not in keep:
                file.unlink()
        old = out.parent / f".old-{out.name}"
        shutil.rmtree(old, ignore_errors=True)
        if out.exists():
            out.rename(old)
        building.rename(out)
        shutil.rmtree(old, ignore_errors=True)
    summary(
        index=out,
        images=len(images),
        shards=len(shards),
        builder=info["builder"],
        build_seconds=info["seconds"],
        verify_seconds=info["verify_seconds"],
        seconds=time.monotonic() - started,
    )
    return Index.open(out)
