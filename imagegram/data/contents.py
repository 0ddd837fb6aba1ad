"""What stands in files: pictures, fingerprints, and whether a file is still the one it was."""

import contextlib
import hashlib
import io
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from PIL import Image, PngImagePlugin
from tqdm import tqdm

# bytes: a data set up to this size is hashed whole, a larger one from pieces of every file
WHOLE = 1_000_000_000
PIECE = 4096  # bytes at the beginning, in the middle and at the end of a file
METADATA = 2**28  # bytes of text and colour profile that a PNG may carry beside its pixels
UNREADABLE = b"unreadable"  # stands for the content of a file that cannot be read


def open_picture(data: bytes) -> Image.Image:
    """A picture from the bytes of its file. What stands beside its pixels may be large."""
    PngImagePlugin.MAX_TEXT_CHUNK = METADATA
    PngImagePlugin.MAX_TEXT_MEMORY = METADATA
    return Image.open(io.BytesIO(data))


def digest(parts: Iterable[bytes]) -> str:
    """A short hash of a sequence of byte strings, whose limits count."""
    state = hashlib.sha256()
    for part in parts:
        state.update(len(part).to_bytes(8, "little"))
        state.update(part)
    return state.hexdigest()[:16]


class ChangedError(OSError):
    """A picture is no longer what it was when the data set was opened, and its fingerprint made."""


class Part(NamedTuple):
    """A file, or `size` bytes of one from `start` on."""

    path: Path
    start: int = 0
    size: int = -1  # all

    def length(self) -> int:
        """Its bytes; OSError where there is no such file."""
        return self.path.stat().st_size if self.size < 0 else self.size


@dataclass(frozen=True)
class Contents:
    """Hashes of files or of parts of files: of all bytes, or of three pieces and the length.

    UNREADABLE is that of one that cannot be read: once it is mended it counts as changed.
    """

    parts: Sequence[Part]
    hashes: tuple[bytes, ...]
    whole: bool

    def named(self, names: Iterable[bytes]) -> list[bytes]:
        """Names and hashes, as parts of a fingerprint."""
        return [name + b"\0" + one for name, one in zip(names, self.hashes, strict=True)]

    @property
    def note(self) -> str:
        """A line on what changes are not seen, "" where all are."""
        pieces = f"{PIECE // 1000} kB at the beginning, in the middle and at the end"
        what = f"of every picture or file, {pieces} say whether it has changed"
        return "" if self.whole else f"more than {WHOLE / 1e9:g} GB: {what}"

    def read(self, i: int) -> bytes:
        """The bytes of part `i`; ChangedError where they were others or can no longer be read."""
        part = self.parts[i]
        try:
            with part.path.open("rb") as f:
                f.seek(part.start)
                data = f.read(part.size)
        except OSError as error:
            if self.hashes[i] == UNREADABLE:
                raise
            raise ChangedError(f"the file cannot be read any more ({error.strerror})") from None
        if _hash_of(io.BytesIO(data), 0, len(data), self.whole) != self.hashes[i]:
            raise ChangedError("the file has changed since the data set was opened")
        return data


def _hash_of(file: BinaryIO, start: int, length: int, whole: bool) -> bytes:
    """A hash of `length` bytes of an open file from `start` on."""
    state = hashlib.sha256(length.to_bytes(8, "little"))
    middle, end = max(0, length // 2 - PIECE // 2), max(0, length - PIECE)
    size = 2**20 if whole else PIECE
    for place in range(0, length, size) if whole else sorted({0, middle, end}):
        file.seek(start + place)
        state.update(file.read(min(size, length - place)))
    return state.digest()


def contents_of(parts: Sequence[Part]) -> Contents:
    """The contents of many files or parts of files, read by several threads.

    All bytes count where they are at most WHOLE together. Dates do not: a copy of a data set is the
    same data set.
    """
    total = 0
    for part in parts:
        with contextlib.suppress(OSError):
            total += part.length()
        if total > WHOLE:
            break
    whole = total <= WHOLE

    def hash_of(part: Part) -> bytes:
        try:
            with part.path.open("rb") as file:
                return _hash_of(file, part.start, part.length(), whole)
        except OSError:
            return UNREADABLE

    with ThreadPoolExecutor(16) as pool:
        results = pool.map(hash_of, parts)
        shown = tqdm(results, total=len(parts), unit="file", desc="comparing", delay=5, leave=False)
        return Contents(parts, tuple(shown), whole)
