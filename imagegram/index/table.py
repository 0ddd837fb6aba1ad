"""Suffix tables of a uint16 corpus: one encoding, one proof.

A table holds, for every suffix of the corpus in sorted order, the byte offset where it starts, little-endian in the
fewest bytes that hold the largest offset. Suffixes are ordered by their bytes, as Fastgram and infini-gram compare
them: token by token, each token as its two little-endian bytes, a suffix before its extensions.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from imagegram.cli import UserError
from imagegram.machine import cores

CHUNK = 1 << 18  # entries handled at a time
MAX_TOKENS = 2**31 - 1  # of one shard: the proof numbers its suffixes in int32

# All 65,536 tokens in the order of their little-endian bytes.
BYTE_ORDER = np.arange(1 << 16, dtype=np.uint16).byteswap()


def count_tokens(tokens: NDArray[np.uint16], pool: ThreadPoolExecutor) -> NDArray[np.int64]:
    """How often every token occurs, [65536]."""
    counts = np.zeros(1 << 16, np.int64)
    chunks = (tokens[i : i + CHUNK] for i in range(0, len(tokens), CHUNK))
    for part in pool.map(lambda chunk: np.bincount(chunk, minlength=1 << 16), chunks):
        counts += part
    return counts


def pointer_width(tokens: int) -> int:
    """Bytes that hold the largest byte offset in a corpus of `tokens` tokens.

    >>> [pointer_width(tokens) for tokens in (128, 129, 32_768, 32_769)]
    [1, 2, 2, 3]
    """
    return max(1, -(-(2 * (tokens - 1)).bit_length() // 8))


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
    width = pointer_width(tokens)
    size = path.stat().st_size
    if size != tokens * width:
        raise UserError(f"{path} has {size} bytes, {tokens} tokens need {tokens * width}: build the index again")
    return np.memmap(path, np.uint8, "r", shape=(tokens, width)).view(np.ndarray)  # faster than a memmap


def verify_table(tokens: NDArray[np.uint16], path: Path, *, progress: bool = False) -> None:
    """Prove that `path` is the suffix table of `tokens`; UserError says what is wrong.

    Exact and linear (Burkhardt & Karkkainen, 2003): the entries are a permutation of the suffixes, sorted by their
    first tokens, and of two neighbours with the same first token the first has the smaller rank of what follows it.
    """
    n = len(tokens)
    table = open_table(path, n)
    starts = range(0, n, CHUNK)
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
            offsets = pointers_at(table, slice(i, stop))
            if (table[i:stop, 0] & 1).any() or offsets.max() >= n:
                raise UserError(f"{path} points between or behind the tokens: build the index again")
            rank[offsets] = np.arange(i, stop, dtype=np.int32)

        def by_first_token(i: int) -> None:
            here = rank[i : min(i + CHUNK, n)]
            token = tokens[i : i + CHUNK]
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
