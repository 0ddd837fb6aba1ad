"""Building an index: token folders -> flat corpora -> suffix tables, each proved -> the folder.

Shards are independent of each other (shards.py): several processes build them, of one machine or of
many that share a folder, each shard leaves a marker, and an interrupted build goes on from the
finished ones. The index grows in a folder beside and is renamed when all of it is there.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
from tqdm import tqdm

from imagegram.artifact import MARKER, Artifact
from imagegram.cli import UserError, summary
from imagegram.files import read_json, require_space, save_array
from imagegram.index.builders import BUILDERS, find_tg_build_index
from imagegram.index.folder import (
    CORPUS,
    ENDING,
    FORMAT,
    Index,
    IndexInfo,
    check_contents,
    file_record,
)
from imagegram.index.indexed import IndexedImages
from imagegram.index.shards import Job, build_shard, shard_of, write_corpus
from imagegram.index.table import MAX_TOKENS
from imagegram.machine import ONE, Processes, memory_available
from imagegram.tokens import TokenFolder

DIGITS = 16  # of the hash of a request
COMPARED = 1_000_000  # images of several data sets, at most, among which copies are looked for


def memory_to_build(tokens: int, builder: str = "auto") -> float:
    """Bytes of memory that one shard of `tokens` takes to build.

    >>> memory_to_build(1000, "divsufsort"), memory_to_build(2**30, "divsufsort") / 2**30
    (10000, 18.0)
    """
    if builder == "auto":
        builder = "tg_build_index" if find_tg_build_index() else "divsufsort"
    return BUILDERS[builder] * tokens * (1.8 if builder == "divsufsort" and tokens >= 2**30 else 1)


def disk_to_build(tokens: int, *, shards: int = 1) -> int:
    """Bytes that corpora of `tokens`, their tables, and several shards in one take at most.

    >>> disk_to_build(1000), disk_to_build(1000, shards=4)
    (7000, 9000)
    """
    return (7 if shards == 1 else 9) * tokens  # 2 a corpus, up to 5 a table


def _shard_size(
    images: IndexedImages, shard_images: int, builder: str, processes: Processes
) -> int:
    """Images a shard. UserError where these are too many, for the format or for the memory."""
    if processes.world_size > 1 and not shard_images:
        share = -(-len(images) // processes.world_size)
        said = f"{processes.world_size} processes need shards to share"
        raise UserError(f"{said}: take --shard-images {share} or less")
    stride = images.tokens_per_image + 1
    size = min(shard_images or len(images), len(images))
    most = (MAX_TOKENS - len(ENDING)) // stride
    if size > most:
        said = f"{size} images are {size * stride} tokens, a shard holds at most {MAX_TOKENS}"
        raise UserError(f"{said}: take --shard-images {most}")
    here = processes.on_this_machine
    need = here * memory_to_build(size * stride, builder)
    available = memory_available()
    if need > available:
        raise UserError(
            f"building {here} x {size} images needs {need / 2**30:.1f} GiB of memory, "
            f"{available / 2**30:.1f} are available: take --shard-images "
            f"{int(0.8 * size * available / need)}"
            + ", fewer processes" * (here > 1)
            + ", or --builder divsufsort" * (builder == "tg_build_index")
        )
    return size


def _clean(building: Path, jobs: Sequence[Job], processes: Processes) -> list[Job]:
    """This process's shards still to be built; what killed runs left of its share is removed."""
    Artifact(building, "index").mark()
    mine = {job.number for job in jobs if job.number % processes.world_size == processes.rank}
    done = [job for job in jobs if job.done()]
    keep = {name for job in done for name in (job.marker.name, *read_json(job.marker)["files"])}
    for left in building.iterdir():
        number = shard_of(left.name)
        # What belongs to no shard is written by the first process.
        ours = number in mine if number is not None else processes.rank == 0
        if ours and left.name not in keep and not left.name.endswith(MARKER):
            shutil.rmtree(left) if left.is_dir() else left.unlink()
    if done and processes.rank == 0:
        print(f"{len(done)} of {len(jobs)} shards are finished")
    return [job for job in jobs if job.number in mine and job not in done]


def _missing(jobs: Sequence[Job], artifact: Artifact, processes: int, started: float) -> bool:
    """Wait for the other processes; whether shards are missing when all of them have ended."""
    missing = list(jobs)
    looked = time.monotonic()
    while True:
        waiting = artifact.others_at_work(processes, started)
        missing = [job for job in missing if not job.done()]
        if not missing:
            return False
        if not waiting:
            break
        if time.monotonic() - looked > 60:
            print(f"waiting for {len(missing)} shards of other processes", flush=True)
            looked = time.monotonic()
        time.sleep(0.5)
    print(
        f"{len(missing)} of {len(jobs)} shards are missing: other processes have ended or not "
        "begun; the same command, with any number of processes, goes on from the finished shards"
    )
    return True


def _finished(out: Path, digest: str) -> Index | None:
    """The index in `out` where it is the one asked for, and whole: all of it is read."""
    try:
        if (out / "index.json").exists() and read_json(out / "index.json").get("hash") == digest:
            index = Index.open(out)
            check_contents(index)
            return index
    except UserError as error:
        print(f"not kept: {error}")
    return None


def _finish(building: Path, digest: str, jobs: Sequence[Job], images: IndexedImages) -> None:
    """Write images.npy, the corpus of several shards in one, and index.json."""
    every = range(len(images))
    added = [building / "images.npy"]
    save_array(added[0], np.concatenate([origins for _, origins in images.chunks(every)]))
    if len(jobs) > 1:
        added.append(building / CORPUS)
        write_corpus(images, every, added[1])
    shards = [read_json(job.marker) for job in jobs]
    manifest = images.folders[0].manifest
    folders = [folder.path.resolve() for folder in images.folders]
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
        "sources": list(map(str, folders)),
        "relative_sources": [os.path.relpath(folder, building.resolve()) for folder in folders],
        "source_contents": [folder.contents() for folder in images.folders],
        "seconds": round(sum(shard["seconds"] for shard in shards), 3),
        "verify_seconds": round(sum(shard["verify_seconds"] for shard in shards), 3),
        "files": {name: entry for shard in shards for name, entry in shard["files"].items()}
        | {file.name: file_record(file) for file in added},
    }
    Artifact(building, "index").finish(info)


def _jobs(building: Path, images: IndexedImages, index_input: Path, size: int) -> list[Job]:
    """The shards of `size` images each."""
    every = range(len(images))
    parts = [every[start : start + size] for start in every[::size]]
    inputs = [index_input / f"shard-{number}" for number in range(len(parts))]
    inputs = inputs if len(parts) > 1 else [index_input]
    return [Job(number, part, inputs[number], building) for number, part in enumerate(parts)]


def _build_share(
    building: Path, jobs: Sequence[Job], images: IndexedImages, builder: str, processes: Processes
) -> None:
    """Build this process's share of the shards in `building`."""
    todo = _clean(building, jobs, processes)
    for job in todo:
        images.check(job.images)
    unfinished = sum(len(job.images) for job in jobs if not job.done())
    tokens = (images.tokens_per_image + 1) * unfinished
    require_space(building, disk_to_build(tokens, shards=len(jobs)))
    total = sum(len(job.images) for job in todo)
    silent = len(todo) < 2 or processes.rank > 0
    with tqdm(total=total, unit="img", desc="indexing", disable=silent) as bar:
        for job in todo:
            build_shard(job, images, builder, progress=len(jobs) == 1)
            bar.update(len(job.images))


def check_distinct(folders: Sequence[TokenFolder]) -> None:
    """UserError where two folders hold images of one data set, under whatever names: each would be
    a copy, on either side of the held-out split. Where two data sets share some images, a line says
    how many."""
    for number, folder in enumerate(folders):
        for other in folders[:number]:
            both = np.intersect1d(folder.asked, other.asked, assume_unique=True)
            if folder.pictures == other.pictures and len(both):
                said = f"{other.path} and {folder.path} hold the same images"
                raise UserError(f"{said}: name one of them")
    if len(folders) == 1 or sum(folder.manifest.images for folder in folders) > COMPARED:
        return
    earlier: list[set[bytes]] = []
    for folder in folders:
        shards = [shard for shard in range(folder.shards) if not folder.problem(shard)]
        mine = {row.tobytes() for shard in shards for row in folder.read(shard)[0]}
        if shared := sum(len(mine & others) for others in earlier):
            said = f"{shared} images have the tokens of images of other data sets"
            print(f"{folder.path}: {said}: copies, perhaps")
        earlier.append(mine)


def _check_places(token_folders: Sequence[Path], index_input: Path, out: Path) -> None:
    """UserError where the build would replace or bury files that are not an index."""
    Artifact(out, "index").check()
    Artifact(index_input, "index_input").check()
    target = out.resolve()
    for kept in (*token_folders, index_input):
        other = kept.resolve()
        if target == other or target in other.parents or other in target.parents:
            said = f"the index {out} and {kept} lie in each other"
            raise UserError(f"{said}: choose another folder for the index")


def _growing(out: Path, digest: str, *, clear_others: bool) -> Path:
    """The folder in which the index of a request grows, so that no process waits for another.

    `clear_others` removes those of other requests, and what a run killed at its very end left.
    """
    building = out.parent / f".building-{out.name}-{digest}"
    if clear_others:
        others = {*out.parent.glob(f".building-{out.name}-{'[0-9a-f]' * DIGITS}")} - {building}
        for left in (*others, out.parent / f".old-{out.name}"):
            shutil.rmtree(left, ignore_errors=True)
    return building


def _put_in_place(building: Path, out: Path) -> None:
    """Replace `out` by the finished index in `building`."""
    old = out.parent / f".old-{out.name}"
    keep = {MARKER, "index.json", *read_json(building / "index.json")["files"]}
    for file in building.iterdir():
        if file.name not in keep:
            file.unlink()
    if out.exists():
        out.rename(old)
    building.rename(out)
    shutil.rmtree(old, ignore_errors=True)


def build_index(
    token_folders: Sequence[Path],
    index_input: Path,
    out: Path,
    *,
    builder: str = "auto",
    shard_images: int = 0,
) -> Index:
    """Build, verify and open the index of `token_folders`, unless it is finished.

    `builder` is one of BUILDERS, or "auto": tg_build_index where it is found, else divsufsort;
    `shard_images` of a shard, 0: all. Finished shards of an interrupted run are kept. UserError on
    bad input or a wrong table; `out` then is what it was. Of a link the target is replaced.
    """
    index = build_share(token_folders, index_input, out, builder=builder, shard_images=shard_images)
    assert index is not None  # one process builds all of it
    return index


def build_share(
    token_folders: Sequence[Path],
    index_input: Path,
    out: Path,
    *,
    builder: str = "auto",
    shard_images: int = 0,
    processes: Processes = ONE,
) -> Index | None:
    """`build_index` by several processes on a shared folder: every `world_size`-th shard, from
    `rank` on. A shard's bytes depend on its images alone: another number of processes may go on.

    The first process waits for the others, completes the index and returns it. None: shards are
    missing, or it was not for this process to wait.
    """
    _check_places(token_folders, index_input, out)
    shown = out
    out = out.resolve() if out.is_symlink() else out
    if builder not in ("auto", *BUILDERS):
        raise UserError(f"unknown builder {builder!r}: auto, {', '.join(BUILDERS)}")
    folders = [TokenFolder.open(path) for path in token_folders]
    for folder in folders:
        folder.check_readable()
    check_distinct(folders)
    request = FORMAT, [folder.contents() for folder in folders], shard_images
    digest = hashlib.sha256(json.dumps(request).encode()).hexdigest()[:DIGITS]

    first = processes.rank == 0
    artifact = Artifact(out, "index")
    corpus = Artifact(index_input, "index_input")
    corpus.claim()
    with artifact.lock(processes.rank), corpus.lock(processes.rank):
        building = _growing(out, digest, clear_others=first)
        if index := _finished(out, digest):
            if first:
                print(f"{shown} is finished, nothing to build")
            return index
        started = time.monotonic()
        if not _finished(building, digest):  # it is where a run was killed before the next lines
            images = IndexedImages(folders)
            size = _shard_size(images, shard_images, builder, processes)
            jobs = _jobs(building, images, index_input, size)
            _build_share(building, jobs, images, builder, processes)
            if not first or _missing(jobs, artifact, processes.world_size, started):
                return None
            _finish(building, digest, jobs, images)
        elif not first:
            return None
        _put_in_place(building, out)
    index = Index.open(out)
    info = index.info
    sizes = {"images": info["images"], "shards": info["shards"], "builder": info["builder"]}
    times = {"build_seconds": info["seconds"], "verify_seconds": info["verify_seconds"]}
    summary(index=shown, **sizes, **times, seconds=time.monotonic() - started)
    return index
