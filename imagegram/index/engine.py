"""Fastgram over an index: the one door to it.

`ntd` answers one context the way the first experiments asked for it: the tokens that follow the longest suffix of the
context that occurs, with their counts. It is the readable reference of the sampler of that name.

A sampler of many sequences needs two calls beneath it. `find` gives the same matches as ranges of the suffix tables: a
uniform draw from the ranges is a draw from `ntd`'s distribution, however many matches there are, and the drawn rank
names the image and the position. `creativity` gives the longest match that starts at each position.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from imagegram.index.folder import ENDING, Index
from imagegram.index.table import pointers_at
from imagegram.tokens import SEPARATOR, TERMINATOR

MOST_PLACES = 100_000  # of a run, that are looked at


@dataclass(frozen=True)
class NextTokens:
    """The next-token distribution of a context."""

    counts: dict[int, int]  # how often each token follows, markers left out; empty where nothing does
    suffix_len: int  # tokens of the context that were matched
    approximate: bool  # whether Fastgram looked at a part of the matches only


def open_fastgram(folder: Path) -> Any:
    """Fastgram's `GramEngine` over the files of `folder`."""
    from fastgram.engine import GramEngine  # what only lists samplers need not wait for it

    # As bytes: a name need not be text in the locale of this process.
    names: list[Any] = [os.fsencode(folder)]
    # One thread: to start one for every shard takes longer than to search it.
    return GramEngine(names, eos_token_id=SEPARATOR, vocab_size=SEPARATOR, token_dtype="u16", threads=1)


class Engine:
    """Fastgram over an opened index; build one for a run, it holds nothing but memory maps."""

    def __init__(self, index: Index):
        self.index = index
        self.gram = open_fastgram(index.path)
        # The C++ object: `GramEngine` checks every token of every call, and answers with dictionaries.
        self.core = self.gram.engine
        # Where each shard stands among Fastgram's, which are sorted by name: shard 10 before shard 2.
        self.order = np.argsort(sorted(range(len(index.shards)), key=str))

    def ntd(self, context: Sequence[int], max_support: int | None = None) -> NextTokens:
        """What follows the longest suffix of `context` that occurs with a token after it, as `GramEngine.ntd()` says.

        A suffix after which only images end is passed over for the next shorter one. Where there are more than
        `max_support` matches Fastgram looks at a part of them, and the answer is approximate; None: it looks at all.
        """
        if max_support is None:
            max_support = sum(len(shard.tokens) for shard in self.index.shards)
        suffix = list(context)
        while True:
            answer = self.gram.ntd(suffix, max_support)
            follows = answer["result_by_token_id"].items()
            counts = {token: entry["cont_cnt"] for token, entry in follows if token < TERMINATOR}
            length = answer["suffix_len"]
            if counts or not suffix:
                return NextTokens(counts, length, answer["approx"])
            suffix = suffix[len(suffix) - length + 1 :]

    def find(self, contexts: NDArray[np.uint16]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where each of `contexts` [n, c] stands with a token of the image after it.

        As ranges of ranks in every shard's suffix table: the first and the one past the last, int64 [shards, n] each,
        equal where there is none.
        """
        distinct, which = np.unique(contexts, axis=0, return_inverse=True)
        queries = distinct.tolist()
        segments = [self.core.find(query).segment_by_shard for query in queries]
        ranges = np.array(segments, np.int64).reshape(len(queries), len(self.index.shards), 2)[:, self.order]
        low = ranges[:, :, 0].T.copy()  # [shards, distinct]
        high = ranges[:, :, 1].T.copy()
        for number, shard in enumerate(self.index.shards):
            found = np.flatnonzero(high[number] > low[number])
            if not found.size:
                continue
            # The markers sort behind every token: the last match tells whether some matches end an image.
            last = pointers_at(shard.table, high[number, found] - 1) + contexts.shape[1]
            beyond = shard.tokens[np.minimum(last, len(shard.tokens) - 1)] >= TERMINATOR
            for i in found[beyond]:
                for marker in (TERMINATOR, SEPARATOR):
                    ended = self.core.find_with_hint([*queries[i], marker], segments[i]).segment_by_shard
                    first, end = ended[self.order[number]]
                    high[number, i] -= end - first
        which = which.ravel()
        return low[:, which], high[:, which]

    def places(self, run: NDArray[np.uint16]) -> NDArray[np.int64]:
        """Where a run of tokens [c] stands: offsets in `index.corpus`, [m], at most MOST_PLACES of every shard."""
        found = []
        start = 0
        segments = self.core.find(run.tolist()).segment_by_shard
        for shard, place in zip(self.index.shards, self.order, strict=True):
            low, high = segments[place]
            found.append(start + pointers_at(shard.table, slice(low, min(high, low + MOST_PLACES))))
            start += len(shard.tokens) - len(ENDING)
        return np.concatenate(found).astype(np.int64)

    def longest_matches(self, sequences: NDArray[np.uint16]) -> NDArray[np.int64]:
        """From every token of `sequences` [n, k] on, the tokens that stand in a row in one indexed image: int64 [n, k].

        The matching statistics of Chang & Lawler (1994, doi:10.1007/BF01185431).
        """
        bar = tqdm(sequences.tolist(), desc="runs anywhere", unit="sequence", delay=3)
        ends = [self.core.creativity(sequence).rs for sequence in bar]
        return np.array(ends, np.int64).reshape(sequences.shape) - np.arange(sequences.shape[1])
