"""Suffix tables of a uint16 corpus: one encoding, one proof.

A table holds, for every suffix of the corpus in sorted order, the byte offset where it starts,
little-endian in the fewest bytes that hold the largest offset. Suffixes are ordered by their bytes,
as Fastgram and infini-gram compare them: token by token, each token as its two little-endian bytes,
a suffix before its extensions.
"""

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
    """Memory-map a table as uint8 [tokens, width]; UserError where it has another size."""
    width = pointer_width(tokens)
    size = path.stat().st_size
    if size != tokens * width:
        said = f"{path} has {size} bytes, {tokens} tokens need {tokens * width}"
        raise UserError(f"{said}: build the index again")
    # faster than a memmap
    return np.memmap(path, np.uint8, "r", shape=(tokens, width)).view(np.ndarray)


class Proof:
    """That `path` is the suffix table of `tokens`: three passes, CHUNK entries from `i` on at once.

    Exact and linear (Burkhardt & Karkkainen, 2003): the entries are a permutation of the suffixes,
    sorted by their first tokens, and of two neighbours with the same first token the first has the
    smaller rank of what follows it.
    """

    def __init__(self, tokens: NDArray[np.uint16], path: Path):
        self.tokens = tokens
        self.path = path
        self.table = open_table(path, len(tokens))
        self.rank = np.full(len(tokens) + 1, -1, np.int32)  # of every suffix, the empty one first
        counts = np.zeros(1 << 16, np.int64)
        for i in range(0, len(tokens), CHUNK):
            counts += np.bincount(tokens[i : i + CHUNK], minlength=1 << 16)
        self.behind = np.cumsum(counts[BYTE_ORDER])  # ranks behind the suffixes of a first token
        self.last = np.empty(1 << 16, np.int64)  # their ranks: first[token] to last[token]
        self.last[BYTE_ORDER] = self.behind - 1
        self.first = self.last - counts + 1

    def scatter(self, i: int) -> None:
        entries = self.table[i : i + CHUNK]
        offsets = pointers_at(self.table, slice(i, i + CHUNK))
        if (entries[:, 0] & 1).any() or offsets.max() >= len(self.tokens):
            raise self._wrong("points between or behind the tokens")
        self.rank[offsets] = np.arange(i, i + len(entries), dtype=np.int32)

    def by_first_token(self, i: int) -> None:
        token = self.tokens[i : i + CHUNK]
        here = self.rank[i : i + len(token)]
        if here.min() < 0:
            raise self._wrong("is not a permutation of the suffixes")
        wrong = (here < self.first[token]) | (here > self.last[token])
        if wrong.any():
            raise self._wrong(f"is out of order at entry {here[wrong].min()}")

    def by_what_follows(self, i: int) -> None:
        # with the pair across the chunks
        follow = self.rank[pointers_at(self.table, slice(i, i + CHUNK + 1)) + 1]
        ordered = follow[:-1] < follow[1:]
        behind = self.behind[(self.behind > i) & (self.behind < i + len(follow))]
        ordered[behind - i - 1] = True  # the first tokens differ
        if not ordered.all():
            raise self._wrong(f"is out of order at entry {i + int(np.argmin(ordered))}")

    def _wrong(self, what: str) -> UserError:
        return UserError(f"{self.path} {what}: build the index again")


def verify_table(tokens: NDArray[np.uint16], path: Path, *, progress: bool = False) -> None:
    """Prove that `path` is the suffix table of `tokens`; UserError says what is wrong."""
    n = len(tokens)
    proof = Proof(tokens, path)
    starts = range(0, n, CHUNK)
    bar = tqdm(None, "verifying", 3 * n, unit="tok", unit_scale=True, disable=not progress, delay=2)
    # numpy's gathers leave the interpreter to other threads
    with ThreadPoolExecutor(cores()) as pool, bar:
        for step in (proof.scatter, proof.by_first_token, proof.by_what_follows):
            for i, _ in zip(starts, pool.map(step, starts), strict=True):
                bar.update(min(CHUNK, n - i))
