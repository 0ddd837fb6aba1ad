"""Fastgram over an index: the one door to it.

Its `ntd()` says which tokens follow one context. A sampler of many sequences needs two calls
beneath it. `find` gives the same matches as ranges of the suffix tables: a uniform draw from these
is a draw from `ntd`'s distribution, and the drawn rank names the image and the position.
`creativity` gives the longest match that starts at each position.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from imagegram.index.folder import ENDING, Index
from imagegram.index.table import pointers_at
from imagegram.tokens import SEPARATOR, TERMINATOR

MOST_OFFSETS = 100_000  # of a run, that are looked at


def open_fastgram(folder: Path) -> Any:
    """Fastgram's `GramEngine` over the files of `folder`."""
    from fastgram.engine import GramEngine  # what only lists samplers need not wait for it

    # As bytes: a name need not be text in the locale of this process.
    names: list[Any] = [os.fsencode(folder)]
    # One thread: to start one for every shard takes longer than to search it.
    return GramEngine(
        names, eos_token_id=SEPARATOR, vocab_size=SEPARATOR, token_dtype="u16", threads=1
    )


class Engine:
    """Fastgram over an opened index; build one for a run, it holds nothing but memory maps."""

    def __init__(self, index: Index):
        self.index = index
        self.gram = open_fastgram(index.path)
        # The C++ object: `GramEngine` checks every token of a call, and answers with dictionaries.
        self.core = self.gram.engine
        # Where each shard is among Fastgram's, which are sorted by name: shard 10 before shard 2.
        self.order = np.argsort(sorted(range(len(index.shards)), key=str))

    def find(self, contexts: NDArray[np.uint16]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where each of `contexts` [n, c] stands with a token of the image after it, as ranges of
        ranks in every shard's suffix table: first and one past the last, int64 [shards, n] each."""
        distinct, which = np.unique(contexts, axis=0, return_inverse=True)
        queries = distinct.tolist()
        segments = [self.core.find(query).segment_by_shard for query in queries]
        ranges = np.array(segments, np.int64).reshape(len(queries), len(self.index.shards), 2)
        low, high = ranges[:, self.order].transpose(2, 1, 0).copy()  # [shards, distinct]
        for number, shard in enumerate(self.index.shards):
            found = np.flatnonzero(high[number] > low[number])
            if not found.size:
                continue
            # Markers sort behind every token: the last match tells whether some end an image.
            last = pointers_at(shard.table, high[number, found] - 1) + contexts.shape[1]
            beyond = shard.tokens[np.minimum(last, len(shard.tokens) - 1)] >= TERMINATOR
            for i in found[beyond]:
                for marker in (TERMINATOR, SEPARATOR):
                    ended = self.core.find_with_hint([*queries[i], marker], segments[i])
                    first, end = ended.segment_by_shard[self.order[number]]
                    high[number, i] -= end - first
        which = which.ravel()
        return low[:, which], high[:, which]

    def offsets(self, run: NDArray[np.uint16]) -> NDArray[np.int64]:
        """Where a run of tokens [c] stands in `index.corpus`: [m], at most MOST_OFFSETS a shard."""
        found = []
        start = 0
        segments = self.core.find(run.tolist()).segment_by_shard
        for shard, place in zip(self.index.shards, self.order, strict=True):
            low, high = segments[place]
            some = slice(low, min(high, low + MOST_OFFSETS))
            found.append(start + pointers_at(shard.table, some))
            start += len(shard.tokens) - len(ENDING)
        return np.concatenate(found).astype(np.int64)

    def longest_matches(self, sequences: NDArray[np.uint16]) -> NDArray[np.int64]:
        """From every token of `sequences` [n, k] on, the tokens that stand in a row in one indexed
        image: int64 [n, k], the matching statistics of Chang & Lawler (1994,
        doi:10.1007/BF01185431)."""
        bar = tqdm(sequences.tolist(), desc="runs anywhere", unit="sequence", delay=3)
        ends = [self.core.creativity(sequence).rs for sequence in bar]
        return np.array(ends, np.int64).reshape(sequences.shape) - np.arange(sequences.shape[1])
