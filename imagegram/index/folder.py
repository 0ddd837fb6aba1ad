"""The index: token folders -> index_input/ -> suffix tables -> a verified index/ that Fastgram
opens.

    tokenized.N     uint16 little-endian: of every image the separator 65535, its tokens; ENDING
    offset.N        uint64: the byte offset of every separator
    table.N         the suffix table
    corpus          of several shards: all images in one, as tokenized.0 is where there is one shard
    images.npy      int64 [images, 3]: source (row of index.json's "sources"), ordinal, label
    index.json      what it was made from, by which builder, with hashes; written last

The ending works around two faults of the tools. `tg_build_index` takes its pointer width from the
last suffix in sorted order: two separators in a row make that one of the last positions. Fastgram
takes the end of the corpus for a separator when it bisects the tokens that follow a context, and
would skip matches in between: a terminator keeps the corpus from ending in one.
"""

import contextlib
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePath
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from imagegram.cli import UserError, summary
from imagegram.data.wording import first_names
from imagegram.files import read_json, sha256
from imagegram.index.table import open_table, verify_table
from imagegram.tokens import SEPARATOR, TERMINATOR, TokenFolder

ENDING = (SEPARATOR, SEPARATOR, TERMINATOR)
CORPUS = "corpus"
FORMAT = 2  # of the files; an index of another format is built again


class FileRecord(TypedDict):
    """What is known of a verified file."""

    bytes: int
    mtime_ns: int
    sha256: str


class IndexInfo(TypedDict):
    """index.json."""

    format: int
    hash: str  # of the tokens in it and how they are split: the same bytes have the same hash
    builder: str
    versions: dict[str, str]
    images: int
    shards: int
    tokens_per_image: int
    vocab_size: int
    levels: list[int]  # of the codec's FSQ codes; empty where it has none
    codec: str
    revision: str
    sources: list[str]  # full paths of the token folders
    relative_sources: list[str]  # from the index on: the index and its tokens may move together
    source_contents: list[str]  # hashes
    seconds: float  # of building
    verify_seconds: float
    files: dict[str, FileRecord]


def file_record(file: Path) -> FileRecord:
    stat = file.stat()
    return {"bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": sha256(file)}


def changed_since(file: Path, entry: FileRecord) -> str | None:
    """How a file differs from what was recorded of it; None where it does not."""
    if not file.exists():
        return "is missing"
    stat = file.stat()
    if stat.st_size != entry["bytes"]:
        return "is cut short"
    # A copied folder has new times: then the content decides.
    changed = stat.st_mtime_ns != entry["mtime_ns"] and sha256(file) != entry["sha256"]
    return "changed since it was verified" if changed else None


@dataclass(frozen=True)
class Shard:
    """One shard, memory-mapped."""

    tokens: NDArray[np.uint16]  # [T], with separators
    table: NDArray[np.uint8]  # [T, pointer width]


def open_tokens(path: Path) -> NDArray[np.uint16]:
    """Memory-map a flat corpus; as a plain array, which is faster than a memmap."""
    return np.memmap(path, np.dtype("<u2"), "r").view(np.ndarray)


def class_numbers(sources: NDArray[np.int64], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """A number for every pair of data set and class [n].

    >>> class_numbers(np.array([0, 0, 1, 1]), np.array([-1, 1, -1, 0])).tolist()
    [0, 2, 4294967296, 4294967297]
    """
    return (sources << 32) + labels + 1


@dataclass(frozen=True)
class Index:
    """An opened index. Rows of `tokens` are the images, in the order of their token folders."""

    path: Path
    info: IndexInfo
    shards: tuple[Shard, ...]
    images: NDArray[np.int64]  # [num_images, 3]: source, ordinal, label
    identity: str  # a hash of the tokens in it; what is made from them and kept carries it
    levels: tuple[int, ...]  # this and the others as in `info`
    tokens_per_image: int
    vocab_size: int
    codec: str
    revision: str
    sources: list[str]

    @classmethod
    def open(cls, path: Path) -> "Index":
        """Open a verified index; UserError where it is missing, or its files changed since then."""
        if not (path / "index.json").exists():
            raise UserError(f"no index in {path}: run build_index.sh first")
        info = read_json(path / "index.json")
        if info.get("format") != FORMAT:
            said = f"{path} has format {info.get('format')}, not {FORMAT}"
            raise UserError(f"{said}: run build_index.sh again")
        for name, entry in info["files"].items():
            if problem := changed_since(path / name, entry):
                raise UserError(f"{path / name} {problem}: build the index again")
        shards = []
        for number in range(info["shards"]):
            tokens = open_tokens(path / f"tokenized.{number}")
            shards.append(Shard(tokens, open_table(path / f"table.{number}", len(tokens))))
        images = np.load(path / "images.npy", mmap_mode="r")
        names = ("tokens_per_image", "vocab_size", "codec", "revision", "sources")
        same = {name: info[name] for name in names}
        return cls(path, info, tuple(shards), images, info["hash"], tuple(info["levels"]), **same)

    @property
    def num_images(self) -> int:
        return len(self.images)

    def token_folders(self) -> list[TokenFolder]:
        """The token folders that it was built from; UserError where one is gone or holds others.

        Looked for at their path from the index on, then at their full path.
        """
        parts = self.info["relative_sources"], self.sources, self.info["source_contents"]
        return [self._token_folder(*paths) for paths in zip(*parts, strict=True)]

    def _token_folder(self, relative: str, full: str, contents: str) -> TokenFolder:
        paths = [self.path.resolve() / relative, Path(full)]
        folders = [TokenFolder.open(path) for path in paths if (path / "manifest.json").exists()]
        for folder in folders:
            if folder.contents() == contents:
                return folder
        if folders:
            raise UserError(
                f"{folders[0].path} does not hold the tokens that {self.path} was built from "
                "(other images, or shards are missing): tokenize them again, or build the index "
                "again"
            )
        raise UserError(
            f"the tokens that {self.path} was built from are not in {full}: move them back there, "
            "or build the index again from where they are now"
        )

    @property
    def labels(self) -> NDArray[np.int64]:
        """The class of every image among those of its data set, int64 [num_images]; -1: none."""
        return self.images[:, 2]

    @cached_property
    def kept(self) -> dict[str, NDArray[np.bool_]]:
        """What a sampler worked out about the whole corpus, for its next draws, by name."""
        return {}

    @cached_property
    def classes(self) -> NDArray[np.int64]:
        """A number for every image's data set and class, int64 [num_images]."""
        return class_numbers(self.images[:, 0], self.labels)

    def class_of(self, asked: str) -> tuple[int, int]:
        """The data set and the class that NAME or SOURCE:NAME means; else UserError with the
        choices. SOURCE is the data set as it was named, the last part of that, or its number."""
        manifests = [folder.manifest for folder in self.token_folders()]
        names = {}
        for number in np.unique(self.classes).tolist():
            source, row = divmod(number, 1 << 32)  # see class_numbers
            if 0 < row <= len(manifests[source].class_names):
                dataset = manifests[source].dataset.name
                name = manifests[source].class_names[row - 1]
                sources = PurePath(dataset).name, source, dataset
                names[source, row - 1] = [name, *(f"{one}:{name}" for one in sources)]
        found = [pair for pair, spellings in names.items() if asked in spellings]
        if len(found) == 1:
            return found[0]

        # The shortest spelling that tells them apart.
        for shown in zip(*(names[pair] for pair in found or names), strict=True):
            if len(set(shown)) == len(shown):
                break
        if found:
            choice = " or ".join(shown)
            raise UserError(f"{self.path} holds several classes {asked!r}: name {choice}")
        listed = f"its classes are {first_names(shown)}" if names else "its images have no classes"
        raise UserError(f"{self.path} holds no image of class {asked!r}: {listed}")

    @cached_property
    def corpus(self) -> NDArray[np.uint16]:
        """All images as one shard holds them, on disk: uint16 [N * (tokens_per_image + 1) + 3]."""
        return self.shards[0].tokens if len(self.shards) == 1 else open_tokens(self.path / CORPUS)

    @cached_property
    def tokens(self) -> NDArray[np.uint16]:
        """uint16 [num_images, tokens_per_image], a view of the corpus."""
        return self.corpus[: -len(ENDING)].reshape(-1, self.tokens_per_image + 1)[:, 1:]


def verify_index(path: Path) -> None:
    """Read everything: hashes, the contents of every shard, the proof of every table.

    UserError says what is wrong; the index does not open any more then.
    """
    index = Index.open(path)
    started = time.monotonic()
    try:
        check_contents(index)
        for number, shard in enumerate(index.shards):
            separators = np.flatnonzero(shard.tokens == SEPARATOR)
            if not np.array_equal(separators * 2, np.fromfile(path / f"offset.{number}", "<u8")):
                said = f"{path}/offset.{number} does not list the separators"
                raise UserError(f"{said}: build the index again")
            verify_table(shard.tokens, path / f"table.{number}", progress=True)
    except UserError:
        with contextlib.suppress(OSError):  # a folder that is not ours to write
            (path / "index.json").rename(path / "index.json.wrong")  # what a build may replace
        raise
    seconds = time.monotonic() - started
    sizes = {"images": index.num_images, "shards": len(index.shards)}
    summary(index=path, **sizes, verified_seconds=seconds)


def check_contents(index: Index) -> None:
    """UserError where a file differs from its hash. 1.7 GB a second and core."""
    files = index.info["files"]
    total = sum(entry["bytes"] for entry in files.values())
    with tqdm(total=total, unit="B", unit_scale=True, desc="checking the index", delay=2) as bar:
        for name, entry in files.items():
            if sha256(index.path / name) != entry["sha256"]:
                raise UserError(f"{index.path / name} differs from its hash: build the index again")
            bar.update(entry["bytes"])
