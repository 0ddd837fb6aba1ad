"""Suffix tables of a uint16 corpus: the builders, one encoding, one proof.

A table holds, for every suffix of the corpus in sorted order, the byte offset where it starts, little-endian in the
fewest bytes that hold the largest offset. Suffixes are ordered by their bytes, as Fastgram and infini-gram compare
them: token by token, each token as its two little-endian bytes, a suffix before its extensions.
"""

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from imagegram.cli import UserError
from imagegram.files import atomic
from imagegram.index.sort import BYTE_ORDER, count_tokens, sort_suffixes
from imagegram.machine import cores, die_with_parent

CHUNK = 1 << 18  # entries handled at a time
MAX_TOKENS = 2**31 - 1  # of one shard: the proof numbers its suffixes in int32
OUT_OF_CORE = 1 << 27  # bytes of corpus that infini-gram's indexer sorts in memory at a time, on every core
OVERLAP = 100_000  # bytes of the next part that it sees


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


def find_infini_gram() -> Path | None:
    """The indexer that the infini-gram package carries, where that is installed."""
    spec = importlib.util.find_spec("infini_gram")
    program = (
        Path(spec.submodule_search_locations[0]) / "rust_indexing" if spec and spec.submodule_search_locations else None
    )
    return program if program and os.access(program, os.X_OK) else None


def _run(command: list[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True, preexec_fn=partial(die_with_parent, os.getpid()))
    if result.returncode:
        raise UserError(f"{' '.join(command)} failed ({result.returncode}): {result.stderr.strip()[-300:]}")


def suits_fastgram(tokens: int) -> bool:
    """Whether `tg_build_index` writes the right table for a corpus of so many tokens.

    It takes its pointer width from the last suffix in sorted order. With the ending that index.py writes, this is the
    third last in position: where two tokens more or less decide the width, its table would be corrupt.
    """
    return pointer_width(tokens) == pointer_width(tokens - 2)


def build_with_fastgram(tool: Path, source: Path, table: Path) -> None:
    """Run `tg_build_index` on the folder `source` (tokenized.0, offset.0) and move its table to `table`."""
    tokens = (source / "tokenized.0").stat().st_size // 2
    if not suits_fastgram(tokens):
        raise UserError(f"tg_build_index cannot index exactly {tokens} tokens correctly: use BUILDER=numpy")
    out = table.with_name(f"{table.name}-tg_build_index")
    shutil.rmtree(out, ignore_errors=True)
    _run([str(tool), f"{source}/", f"{out}/", "2", "4", "table_only"])
    (out / "table.0").replace(table)
    shutil.rmtree(out)


def build_with_infini_gram(tool: Path, source: Path, table: Path) -> None:
    """Sort parts of the corpus, merge them, join the pieces: infini-gram's steps (Liu et al., 2024, arXiv:2401.17377).

    Parts are cut so that memory is bounded whatever the size of the corpus. Order beyond the OVERLAP at a cut is not
    looked at by the merge: a corpus with longer repeats across it is refused by `verify_table`.
    """
    data = source / "tokenized.0"
    size = data.stat().st_size
    parts, merged = (table.with_name(f"{table.name}-{name}") for name in ("parts", "merged"))
    for folder in (parts, merged):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    common = ["--data-file", str(data), "--ratio", str(pointer_width(size // 2)), "--token-width", "2"]
    jobs = -(-size // OUT_OF_CORE)
    jobs = max(jobs, cores()) if size > 100 * OVERLAP else 1  # a small corpus in one piece: exact whatever repeats
    step = -(-size // jobs // 2) * 2
    commands = [
        [str(tool), "make-part", *common, "--parts-dir", str(parts), "--start-byte", str(start), "--end-byte", str(end)]
        for start in range(0, size, step)
        for end in [min(start + step + OVERLAP, size)]
    ]
    with ThreadPoolExecutor(cores()) as pool:
        list(pool.map(_run, commands))
    threads = ["--num-threads", str(cores() if jobs > 1 else 1)]
    folders = ["--parts-dir", str(parts), "--merged-dir", str(merged), "--hacksize", str(OVERLAP)]
    _run([str(tool), "merge", *common, *folders, *threads])
    shutil.rmtree(parts)
    with atomic(table) as temporary:
        joined = ["--merged-dir", str(merged), "--merged-file", str(temporary)]
        _run([str(tool), "concat", *common, *joined, *threads])
    shutil.rmtree(merged)


def _write_table(table: Path, chunks: Iterator[NDArray[np.signedinteger]], tokens: int, progress: bool) -> None:
    """Write a table of `tokens` entries from chunks of byte offsets in sorted order."""
    width = pointer_width(tokens)
    bar = tqdm(total=tokens, unit="tok", unit_scale=True, desc="writing the table", disable=not progress, delay=2)
    with atomic(table) as temporary, temporary.open("wb") as f, bar:
        for pointers in chunks:
            entries = pointers.astype("<u4" if width <= 4 else "<u8")
            np.ascontiguousarray(entries.view(np.uint8).reshape(-1, entries.itemsize)[:, :width]).tofile(f)
            bar.update(len(pointers))


def build_with_numpy(tokens: NDArray[np.uint16], table: Path, progress: bool = False) -> None:
    """Sort the suffixes with suffix_sort.py on every core and write the table: 13 bytes of memory a token.

    The worst case is a corpus that says the same over and over: 20,000 images of one token take 15 times as long as
    with libdivsufsort, and up to 31 bytes a token.
    """
    order = sort_suffixes(tokens, progress)
    chunks = (order[i : i + CHUNK].astype(np.int64) << 1 for i in range(0, len(order), CHUNK))
    _write_table(table, chunks, len(tokens), progress)


def build_with_divsufsort(tokens: NDArray[np.uint16], table: Path, progress: bool = False) -> None:
    """Sort the suffixes with libdivsufsort (Mori, 2006) through pydivsufsort, on one core, and write the table.

    It sorts the suffixes of the bytes, of which the even ones begin at tokens: 10 bytes of memory a token, 18 where
    the shard has more than 2^30 tokens.
    """
    from pydivsufsort import divsufsort

    suffixes = divsufsort(tokens.view(np.uint8))
    chunks = (suffixes[i : i + 2 * CHUNK] for i in range(0, len(suffixes), 2 * CHUNK))
    _write_table(table, (chunk[chunk & 1 == 0] for chunk in chunks), len(tokens), progress)


def pointers_at(table: NDArray[np.uint8], ranks: NDArray[np.int64] | slice) -> NDArray[np.int64]:
    """Entries of a table [tokens, width] as token positions."""
    entries = np.ascontiguousarray(table[ranks])
    if entries.shape[1] == 4:
        return (entries.view("<u4")[:, 0] >> 1).astype(np.int64)
    raw = np.zeros((len(entries), 8), np.uint8)
    raw[:, : entries.shape[1]] = entries
    return raw.view("<i8")[:, 0] >> 1


def open_table(path: Path, tokens: int) -> NDArray[np.uint8]:
    """Memory-map a table as uint8 [tokens, width]; UserError unless it has the size that `tokens` asks for."""
    width, size = pointer_width(tokens), path.stat().st_size
    if size != tokens * width:
        raise UserError(f"{path} has {size} bytes, {tokens} tokens need {tokens * width}: build the index again")
    return np.memmap(path, np.uint8, "r", shape=(tokens, width))


def verify_table(tokens: NDArray[np.uint16], path: Path, progress: bool = False) -> None:
    """Prove that `path` is the suffix table of `tokens`; UserError says what is wrong.

    Exact and linear (Burkhardt & Karkkainen, 2003): the entries are a permutation of the suffixes, sorted by their
    first tokens, and of two neighbours with the same first token the first has the smaller rank of what follows it.
    """
    n = len(tokens)
    table, starts = open_table(path, n), range(0, n, CHUNK)
    rank = np.full(n + 1, -1, np.int32)  # of every suffix; the empty one comes first
    bar = tqdm(total=3 * n, unit="tok", unit_scale=True, desc="verifying", disable=not progress, delay=2)
    with ThreadPoolExecutor(cores()) as pool, bar:  # numpy's gathers leave the interpreter to other threads
        counts = count_tokens(tokens, pool)
        behind = np.cumsum(counts[BYTE_ORDER])  # the rank behind the suffixes that begin with a token
        last = np.empty(1 << 16, np.int64)  # the ranks of those that begin with a token: first[token] to last[token]
        last[BYTE_ORDER] = behind - 1
        first = last - counts + 1

        def scatter(i: int) -> None:
            stop = min(i + CHUNK, n)
            places = pointers_at(table, slice(i, stop))
            if (table[i:stop, 0] & 1).any() or places.max() >= n:
                raise UserError(f"{path} points between or behind the tokens: build the index again")
            rank[places] = np.arange(i, stop, dtype=np.int32)

        def by_first_token(i: int) -> None:
            here, token = rank[i : min(i + CHUNK, n)], tokens[i : i + CHUNK]
            if here.min() < 0:
                raise UserError(f"{path} is not a permutation of the suffixes: build the index again")
            wrong = (here < first[token]) | (here > last[token])
            if wrong.any():
                raise UserError(f"{path} is out of order at entry {here[wrong].min()}: build the index again")

        def by_what_follows(i: int) -> None:
            follow = rank[pointers_at(table, slice(i, min(i + CHUNK + 1, n))) + 1]  # with the pair across the chunks
            ordered = follow[:-1] < follow[1:]
            ordered[behind[(behind > i) & (behind < i + len(follow))] - i - 1] = True  # the first tokens differ
            if not ordered.all():
                raise UserError(f"{path} is out of order at entry {i + int(np.argmin(ordered))}: build the index again")

        steps: list[Callable[[int], None]] = [scatter, by_first_token, by_what_follows]
        for step in steps:
            for i, _ in zip(starts, pool.map(step, starts), strict=True):
                bar.update(min(CHUNK, n - i))
