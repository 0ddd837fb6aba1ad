"""Suffix tables of a uint16 corpus: two builders, one encoding, one proof.

A table holds, for every suffix of the corpus in sorted order, the byte offset where it starts, little-endian in the
fewest bytes that hold the largest offset. Suffixes are ordered by their bytes, as Fastgram and infini-gram compare
them: token by token, each token as its two little-endian bytes, a suffix before its extensions.
"""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from imagegram.common import UserError, atomic

CHUNK = 1 << 22  # entries handled at a time
MAX_TOKENS = 2**31 - 1  # of one shard: suffixes are numbered in int32


def pointer_width(tokens: int) -> int:
    """Bytes that hold the largest byte offset in a corpus of `tokens` tokens."""
    return max(1, -(-(2 * (tokens - 1)).bit_length() // 8))


def find_tg_build_index() -> Path | None:
    """Fastgram's indexer: $TG_BUILD_INDEX, on the PATH, or in a checkout beside the scripts."""
    if named := os.environ.get("TG_BUILD_INDEX"):
        if not os.access(named, os.X_OK):
            raise UserError(f"TG_BUILD_INDEX={named} is not a program")
        return Path(named)
    found = shutil.which("tg_build_index") or shutil.which("Fastgram/build/tg_build_index")
    return Path(found) if found else None


def build_with_fastgram(tool: Path, source: Path, table: Path) -> None:
    """Run `tg_build_index` on the folder `source` (tokenized.0, offset.0) and move its table to `table`.

    The tool takes its pointer width from the last suffix in sorted order. With the ending that index.py writes, this is
    the third last in position: where two tokens more or less decide the width, the table would be corrupt, and
    UserError asks for the other builder.
    """
    tokens = (source / "tokenized.0").stat().st_size // 2
    if pointer_width(tokens) != pointer_width(tokens - 2):
        raise UserError(f"tg_build_index cannot index exactly {tokens} tokens correctly: use BUILDER=divsufsort")
    out = table.parent / "tg_build_index"
    shutil.rmtree(out, ignore_errors=True)
    command = [str(tool), f"{source}/", f"{out}/", "2", "4", "full"]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise UserError(f"{' '.join(command)} failed ({result.returncode}): {result.stderr.strip()[-300:]}")
    (out / "table.0").replace(table)
    shutil.rmtree(out)


def build_with_divsufsort(tokens: NDArray[np.uint16], table: Path) -> None:
    """Sort the suffixes with libdivsufsort (Mori, 2006) through pydivsufsort and write the table."""
    from pydivsufsort import divsufsort

    suffixes = divsufsort(tokens.byteswap())  # big-endian values sort like little-endian bytes
    width = pointer_width(len(tokens))
    with atomic(table) as temporary, temporary.open("wb") as f:
        for i in range(0, len(suffixes), CHUNK):
            pointers = suffixes[i : i + CHUNK].astype("<u8") * 2
            f.write(np.ascontiguousarray(pointers.view(np.uint8).reshape(-1, 8)[:, :width]).tobytes())


def pointers_at(table: NDArray[np.uint8], ranks: NDArray[np.int64] | slice) -> NDArray[np.int64]:
    """Entries of a table [tokens, width] as token positions."""
    entries = table[ranks]
    raw = np.zeros((len(entries), 8), np.uint8)
    raw[:, : table.shape[1]] = entries
    return raw.view("<i8")[:, 0] >> 1


def open_table(path: Path, tokens: int) -> NDArray[np.uint8]:
    """Memory-map a table as uint8 [tokens, width]; UserError unless it has the size that `tokens` asks for."""
    width, size = pointer_width(tokens), path.stat().st_size
    if size != tokens * width:
        raise UserError(f"{path} has {size} bytes, {tokens} tokens need {tokens * width}: build the index again")
    return np.memmap(path, np.uint8, "r", shape=(tokens, width))


def verify_table(tokens: NDArray[np.uint16], path: Path, progress: bool = False) -> None:
    """Prove that `path` is the suffix table of `tokens`; UserError says what is wrong.

    Exact and linear (Burkhardt & Karkkainen, 2003): the entries are a permutation of the suffixes, and of two
    neighbours the first has the smaller first token or, at equal tokens, the smaller rank of what follows.
    """
    n = len(tokens)
    table = open_table(path, n)
    rank = np.full(n + 1, -1, np.int32)  # of every suffix; the empty one comes first
    starts = range(0, n, CHUNK)
    bar = tqdm(total=2 * n, unit="tok", unit_scale=True, desc="verifying", disable=not progress)
    for i in starts:
        stop = min(i + CHUNK, n)
        raw = np.asarray(table[i:stop])
        places = pointers_at(table, slice(i, stop))
        if (raw[:, 0] & 1).any() or places.max() >= n:
            raise UserError(f"{path} points between or behind the tokens: build the index again")
        rank[places] = np.arange(i, stop, dtype=np.int32)
        bar.update(stop - i)
    if (rank[:n] < 0).any():
        raise UserError(f"{path} is not a permutation of the suffixes: build the index again")
    for i in starts:
        stop = min(i + CHUNK + 1, n)  # one more: the pair across the chunks
        places = pointers_at(table, slice(i, stop))
        first = tokens[places].byteswap()
        follow = rank[places + 1]
        ordered = (first[:-1] < first[1:]) | ((first[:-1] == first[1:]) & (follow[:-1] < follow[1:]))
        if not ordered.all():
            where = i + int(np.argmin(ordered))
            raise UserError(f"{path} is out of order at entry {where}: build the index again")
        bar.update(min(CHUNK, n - i))
    bar.close()
