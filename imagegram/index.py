"""The index: token folders -> index_input/ -> suffix tables -> a verified index/ that Fastgram opens.

    tokenized.N     uint16 little-endian: for every image the separator 65535, then its tokens; then ENDING
    offset.N        uint64: the byte offset of every separator
    table.N         the suffix table
    images.npy      int64 [images, 3]: source (index into index.json's "sources"), ordinal, label of every image
    index.json      what it was made from, by which builder, with hashes; written last

The ending keeps two tools honest. Two separators in a row are the last suffix in order, near the end, which gives
`tg_build_index` the right pointer width (suffix_array.py). The terminator keeps the corpus from ending in a separator:
Fastgram finds the tokens that follow a context by bisection, and takes the end of the corpus for a separator, so that
a first match at the end and a last match before a separator make it count nothing in between.

Held-out images are left out. The folder is built beside and renamed when it is proved right.

    python -m imagegram.index build --tokens data/tokens --index-input data/index_input --out data/index
    python -m imagegram.index verify --index data/index
"""

import hashlib
import json
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imagegram.common import UserError, atomic, read_json, run_lock, run_script, sha256, summary, write_json
from imagegram.shards import SEPARATOR, TERMINATOR, Corpus, TokenFolder
from imagegram.suffix_array import (
    MAX_TOKENS,
    build_with_divsufsort,
    build_with_fastgram,
    find_tg_build_index,
    open_table,
    verify_table,
)

ENDING = (SEPARATOR, SEPARATOR, TERMINATOR)
FORMAT = 2  # of the files; an index of another format is built again
BUILDERS = ("auto", "tg_build_index", "divsufsort")


@dataclass(frozen=True)
class Shard:
    """One shard, memory-mapped: tokens uint16 [T] with separators, table uint8 [T, pointer width]."""

    tokens: NDArray[np.uint16]
    table: NDArray[np.uint8]


@dataclass(frozen=True)
class Index:
    """An opened index. Rows of `tokens` are the indexed images in the order of their token folders."""

    path: Path
    info: dict[str, Any]  # index.json
    shards: tuple[Shard, ...]
    images: NDArray[np.int64]  # [num_images, 3]: source, ordinal, label

    @classmethod
    def open(cls, path: Path) -> "Index":
        """Open a verified index; UserError where it is missing, or its files changed since they were verified."""
        if not (path / "index.json").exists():
            raise UserError(f"no index in {path}: run build_index.sh first")
        info = read_json(path / "index.json")
        if info.get("format") != FORMAT:
            raise UserError(f"{path} has format {info.get('format')}, not {FORMAT}: run build_index.sh again")
        for name, entry in info["files"].items():
            file = path / name
            stat = file.stat() if file.exists() else None
            if stat is None or stat.st_size != entry["bytes"]:
                raise UserError(f"{file} is {'cut short' if stat else 'missing'}: build the index again")
            # A copied folder has new times: then the content decides.
            if stat.st_mtime_ns != entry["mtime_ns"] and sha256(file) != entry["sha256"]:
                raise UserError(f"{file} changed since it was verified: build the index again")
        shards = []
        for number in range(info["shards"]):
            tokens = np.memmap(path / f"tokenized.{number}", np.dtype("<u2"), "r")
            shards.append(Shard(tokens, open_table(path / f"table.{number}", len(tokens))))
        return cls(path, info, tuple(shards), np.load(path / "images.npy"))

    @property
    def num_images(self) -> int:
        return len(self.images)

    @property
    def tokens_per_image(self) -> int:
        return int(self.info["tokens_per_image"])

    @property
    def vocab_size(self) -> int:
        return int(self.info["vocab_size"])

    @property
    def levels(self) -> tuple[int, ...]:
        return tuple(self.info["levels"])

    @property
    def codec(self) -> str:
        return str(self.info["codec"])

    @property
    def revision(self) -> str:
        return str(self.info["revision"])

    @property
    def sources(self) -> list[str]:
        return list(self.info["sources"])

    @property
    def labels(self) -> NDArray[np.int64]:
        return self.images[:, 2]

    @cached_property
    def tokens(self) -> NDArray[np.uint16]:
        """uint16 [num_images, tokens_per_image]; a view of the file where there is one shard."""
        stride = self.tokens_per_image + 1
        parts = [s.tokens[: len(s.tokens) - len(ENDING)].reshape(-1, stride)[:, 1:] for s in self.shards]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def engine(self) -> Any:
        """Fastgram over this folder."""
        from fastgram.engine import GramEngine

        return GramEngine(str(self.path), eos_token_id=SEPARATOR, vocab_size=SEPARATOR, token_dtype="u16")


def _gather(folders: Sequence[TokenFolder]) -> tuple[NDArray[np.uint16], NDArray[np.int64]]:
    """Tokens [N, L] and identities [N, 3] of all images that are not held out."""
    first = folders[0].manifest
    for folder in folders[1:]:
        for field in ("codec", "revision", "tokens_per_image", "vocab_size"):
            here, there = getattr(folder.manifest, field), getattr(first, field)
            if here != there:
                raise UserError(
                    f"{folder.path} has {field} {here!r}, {folders[0].path} has {there!r}: an index holds one codec"
                )
    tokens, images = [], []
    for number, folder in enumerate(folders):
        for shard in range(folder.shards):
            if problem := folder.problem(shard, hashes=True):
                raise UserError(f"{folder.path}: shard {shard} {problem}; run the tokenizing script again")
        corpus: Corpus = folder.load()
        kept = ~corpus.held_out
        tokens.append(corpus.tokens[kept])
        identity = np.full(int(kept.sum()), number), corpus.ordinals[kept], corpus.labels[kept]
        images.append(np.stack(identity, 1).astype(np.int64))
    all_tokens = np.concatenate(tokens)
    if not len(all_tokens):
        raise UserError("every image is held out: lower the held-out share and tokenize again")
    return all_tokens, np.concatenate(images)


def write_input(tokens: NDArray[np.uint16], folder: Path) -> None:
    """Write tokenized.0 and offset.0 of images [n, L]; see the top of this file."""
    n, length = tokens.shape
    if int(tokens.max()) >= TERMINATOR:
        raise UserError(f"a token of an image is below {TERMINATOR}, here is {tokens.max()}")
    size = n * (length + 1) + len(ENDING)
    if size > MAX_TOKENS:
        raise UserError(f"{n} images are {size} tokens, a shard holds {MAX_TOKENS}: give --shard-images")
    flat = np.full(size, SEPARATOR, "<u2")
    flat[: n * (length + 1)].reshape(n, length + 1)[:, 1:] = tokens
    flat[-len(ENDING) :] = ENDING
    starts = np.arange(n + 2, dtype="<u8") * (length + 1)
    starts[-1] = starts[-2] + 1
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in (("tokenized.0", flat), ("offset.0", 2 * starts)):
        with atomic(folder / name) as temporary:
            array.tofile(temporary)


def _build_table(source: Path, table: Path, builder: str) -> str:
    """Build one shard's table with the builder asked for; returns the name of the one that did it."""
    tool = find_tg_build_index() if builder in ("auto", "tg_build_index") else None
    if builder == "tg_build_index" and not tool:
        raise UserError("tg_build_index is not found: set TG_BUILD_INDEX, or use BUILDER=divsufsort")
    if tool:
        build_with_fastgram(tool, source, table)
        return f"tg_build_index ({tool})"
    build_with_divsufsort(np.fromfile(source / "tokenized.0", np.dtype("<u2")), table)
    return f"pydivsufsort {version('pydivsufsort')}"


def build_index(
    token_folders: Sequence[Path], index_input: Path, out: Path, builder: str = "auto", shard_images: int = 0
) -> Index:
    """Build, verify and open the index of `token_folders`; a finished one of the same input is left alone.

    `builder` is one of BUILDERS; all give the same bytes. `shard_images` splits the images into shards (0: one).
    UserError on bad input or a wrong table; `out` then is what it was before.
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
        tokens, images = _gather(folders)
        started = time.monotonic()
        building = out.parent / f".building-{out.name}"
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir(parents=True)
        step = shard_images or len(tokens)
        for number, first in enumerate(range(0, len(tokens), step)):
            source = index_input if step == len(tokens) else index_input / f"shard-{number}"
            write_input(tokens[first : first + step], source)
            table = building / f"table.{number}"
            used = _build_table(source, table, builder)
            print(f"shard {number}: {len(tokens[first : first + step])} images, table by {used}; verifying it")
            for name in ("tokenized", "offset"):
                shutil.copyfile(source / f"{name}.0", building / f"{name}.{number}")
            verify_table(np.memmap(building / f"tokenized.{number}", np.dtype("<u2"), "r"), table)
        np.save(building / "images.npy", images)
        manifest = folders[0].manifest
        files = {
            file.name: {"bytes": s.st_size, "mtime_ns": s.st_mtime_ns, "sha256": sha256(file)}
            for file in sorted(building.iterdir())
            for s in [file.stat()]
        }
        info = {
            "format": FORMAT,
            "hash": digest,
            "builder": used,
            "images": len(images),
            "shards": number + 1,
            "tokens_per_image": manifest.tokens_per_image,
            "vocab_size": manifest.vocab_size,
            "levels": list(manifest.levels),
            "codec": manifest.codec,
            "revision": manifest.revision,
            "sources": [str(path) for path in token_folders],
            "seconds": round(time.monotonic() - started, 3),
            "files": files,
        }
        write_json(building / "index.json", info)
        old = out.parent / f".old-{out.name}"
        shutil.rmtree(old, ignore_errors=True)
        if out.exists():
            out.rename(old)
        building.rename(out)
        shutil.rmtree(old, ignore_errors=True)
    summary(index=out, images=len(images), shards=number + 1, builder=used, seconds=info["seconds"])
    return Index.open(out)


def verify_index(path: Path) -> None:
    """Read everything: hashes, the contents of every shard, the proof of every table. UserError says what is wrong."""
    index, started = Index.open(path), time.monotonic()
    for name, entry in index.info["files"].items():
        if sha256(path / name) != entry["sha256"]:
            raise UserError(f"{path / name} differs from its hash: build the index again")
    for number, shard in enumerate(index.shards):
        separators = np.flatnonzero(shard.tokens == SEPARATOR)
        if not np.array_equal(separators * 2, np.fromfile(path / f"offset.{number}", "<u8")):
            raise UserError(f"{path}/offset.{number} does not list the separators: build the index again")
        verify_table(shard.tokens, path / f"table.{number}", progress=True)
    summary(index=path, images=index.num_images, shards=len(index.shards), verified_seconds=time.monotonic() - started)


@dataclass
class Build:
    """Build the index of token folders."""

    tokens: tuple[Path, ...] = (Path("data/tokens"),)
    index_input: Path = Path("data/index_input")
    out: Path = Path("data/index")
    builder: str = "auto"  # auto | tg_build_index | divsufsort
    shard_images: int = 0  # images a shard; 0: all in one


@dataclass
class Verify:
    """Prove that an index is right."""

    index: Path = Path("data/index")


def main(command: Build | Verify) -> None:
    if isinstance(command, Verify):
        verify_index(command.index)
    else:
        build_index(command.tokens, command.index_input, command.out, command.builder, command.shard_images)


if __name__ == "__main__":
    sys.exit(run_script(main, Build | Verify, __doc__))
