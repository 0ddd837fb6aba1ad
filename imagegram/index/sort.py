"""Sorting the suffixes of a corpus on every core, with NumPy alone.

Prefix doubling (Manber & Myers, 1993) over groups of ties (Larsson & Sadakane, 2007). Suffixes are first sorted by the
eight bytes that they begin with, in buckets by their first token. Then every suffix has a rank, equal for those that
are tied, and what is tied at depth `d` is sorted by the ranks `d` tokens on, which doubles the depth: images of 256
tokens that are copies of each other are told apart after eight rounds. All that is sorted is packed into 64-bit
numbers, key above place, in parts that fit the cache: NumPy sorts plain numbers several times faster than it finds
the order of keys.
"""

from concurrent.futures import ThreadPoolExecutor
from threading import Lock

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from imagegram.machine import cores

CHUNK = 1 << 20  # tokens read at a time
BUCKET = 1 << 18  # suffixes sorted at once by their bytes; more where that many begin with one token
PART = 1 << 16  # and by their ranks: 16 bits of place, 15 of groups, 31 of rank fit one number


# All 65,536 tokens in the order of their little-endian bytes.
BYTE_ORDER = np.arange(1 << 16, dtype=np.uint16).byteswap()


def count_tokens(tokens: NDArray[np.uint16], pool: ThreadPoolExecutor) -> NDArray[np.int64]:
    """How often every token occurs, [65536]."""
    counts = np.zeros(1 << 16, np.int64)
    chunks = (tokens[i : i + CHUNK] for i in range(0, len(tokens), CHUNK))
    for part in pool.map(lambda chunk: np.bincount(chunk, minlength=1 << 16), chunks):
        counts += part
    return counts


def _by_first_token(tokens: NDArray[np.uint16], pool: ThreadPoolExecutor) -> tuple[NDArray[np.int32], list[int]]:
    """Suffixes in buckets by the bytes of their first token: places [n], and where each bucket begins, and n."""
    counts = count_tokens(tokens, pool)
    if counts[tokens[-1]] != 1:
        raise ValueError("the last token of the corpus occurs before: its suffixes would end in ties")
    present = BYTE_ORDER[counts[BYTE_ORDER] > 0]
    counts = counts[present]
    step, alone = np.cumsum(counts) // BUCKET, counts > BUCKET // 2
    cut = np.concatenate([[True], (step[1:] != step[:-1]) | alone[1:] | alone[:-1]])
    bucket_of = np.empty(1 << 16, np.uint16)
    bucket_of[present] = np.cumsum(cut) - 1
    bounds = np.append(np.cumsum(counts)[cut] - counts[cut], len(tokens))
    order, fill, lock = np.empty(len(tokens), np.int32), bounds[:-1].copy(), Lock()

    def distribute(i: int) -> None:
        numbers = bucket_of[tokens[i : i + CHUNK]]
        places = np.argsort(numbers, kind="stable").astype(np.int32)  # a radix sort
        places += np.int32(i)
        sizes = np.bincount(numbers, minlength=len(fill))
        with lock:
            begins = fill.copy()
            fill[:] += sizes
        taken = 0
        for bucket in np.flatnonzero(sizes):
            begin, size = begins[bucket], sizes[bucket]
            order[begin : begin + size] = places[taken : taken + size]
            taken += size

    list(pool.map(distribute, range(0, len(tokens), CHUNK)))
    return order, bounds.tolist()


def _parts(head: NDArray[np.bool_], size: int) -> list[tuple[int, int]]:
    """Ranges of the order that keep groups together: at most `size` entries, or a single group."""
    parts, start, n = [], 0, len(head) - 1
    while start < n:
        stop = min(start + size, n)
        back = head[stop:start:-1]
        last = int(back.argmax())
        if back[last]:
            stop -= last
        else:
            while not head[stop : stop + size].any():
                stop += size
            stop += int(head[stop : stop + size].argmax())
        parts.append((start, stop))
        start = stop
    return parts


def sort_suffixes(tokens: NDArray[np.uint16], progress: bool = False) -> NDArray[np.int32]:
    """Places of all suffixes of `tokens` [n], 4 <= n < 2^31, in the order of their bytes, int32 [n].

    The last token must occur nowhere else: then two suffixes differ before either ends. 11 bytes of memory a token,
    the corpus included, and some more for what is tied.
    """
    n = len(tokens)
    words = np.ndarray((n - 3,), ">u8", tokens, strides=(2,))  # the eight bytes at every token; unaligned
    bar = tqdm(total=n, unit="tok", unit_scale=True, desc="sorting", disable=not progress, delay=2)
    with ThreadPoolExecutor(cores()) as pool, bar:  # numpy's sorts and gathers leave the interpreter to other threads
        order, bounds = _by_first_token(tokens, pool)
        head = np.zeros(n + 1, np.bool_)  # whether an entry is the first of its group
        head[n] = True

        def by_bytes(start: int, stop: int) -> int:
            places = order[start:stop].copy()
            key = words[np.minimum(places, n - 4)].astype(np.uint64)
            for i in np.flatnonzero(places > n - 4):  # what lies behind the end is zero
                key[i] <<= np.uint64(16 * (places[i] - (n - 4)))
            low, bits = int(key.min()), (len(places) - 1).bit_length()
            drop = max(0, (int(key.max()) - low).bit_length() + 1 + bits - 64)
            key >>= np.uint64(drop)
            key -= np.uint64(low >> drop)
            key <<= np.uint64(bits)
            key |= np.arange(len(places), dtype=np.uint64)
            key.sort()
            order[start:stop] = places[(key & np.uint64((1 << bits) - 1)).view(np.int64)]
            key >>= np.uint64(bits)
            head[start] = True
            np.not_equal(key[1:], key[:-1], out=head[start + 1 : stop])
            return (64 - drop) // 16

        depth = min(pool.map(by_bytes, bounds[:-1], bounds[1:]))  # tokens that what is tied has in common
        rank = np.empty(n, np.int32)  # of the first of a suffix's group

        def renumber(entries: NDArray[np.int32]) -> None:
            first = np.where(head[entries], entries, 0)
            rank[order[entries]] = np.maximum.accumulate(first)

        def by_rank(part: tuple[int, int]) -> NDArray[np.int32]:
            heads = head[part[0] : part[1] + 1]
            tied = (np.flatnonzero(~(heads[1:] & heads[:-1])) + part[0]).astype(np.int32)
            places, bits = order[tied], max(0, len(tied) - 1).bit_length()
            key = np.cumsum(head[tied], dtype=np.int64)  # the number of the group
            key <<= 31
            key |= rank[places + depth]
            key <<= bits
            key |= np.arange(len(tied))
            key.sort()
            order[tied] = places[key & ((1 << bits) - 1)]
            key >>= bits
            head[tied[1:]] |= key[1:] != key[:-1]
            return tied

        list(pool.map(lambda part: renumber(np.arange(*part, dtype=np.int32)), _parts(head, PART)))
        while True:
            # Ranks are read by all before any is renewed: a group half renewed would be sorted wrong.
            ties = [tied for tied in pool.map(by_rank, _parts(head, PART)) if len(tied)]
            bar.update(n - sum(map(len, ties)) - bar.n)
            if not ties:
                return order
            list(pool.map(renumber, ties))
            depth *= 2
