"""Contexts of a corpus counted whole: exact copy rates of the plain n-gram samplers, and entropies
of n-grams.

`ntd` and `aligned` are Markov chains made of counts: the chance that a training image comes out is
a product of ratios of counts. All contexts of all training images are counted at once, by sorting,
hundreds of times as fast as a sampler, which can be asked about any sequence.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

Ints = NDArray[np.int32]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Counts:
    """How often the context before every token stands in the corpus, int32 [n, L] each."""

    context: int  # tokens of it
    hits: Ints  # with that token after it
    sizes: Ints  # with any token after it


def context_counts(tokens: NDArray[np.uint16], longest: int, *, aligned: bool) -> Iterator[Counts]:
    """The counts of contexts of 0, 1 ... `longest` tokens before every token of a corpus [n, L].

    aligned: at the same position only. Else anywhere, and the separator before an image counts as a
    token of context. A context that stands once is not looked at again: nor do longer ones recur.
    """
    n, length = tokens.shape
    contexts = np.zeros((n, length), np.int32)  # their numbers; -1: stands once
    if aligned:
        contexts += np.arange(length, dtype=np.int32)
    for context in range(longest + 1):
        shared = np.flatnonzero(contexts >= 0)
        asked = contexts.ravel()[shared]
        sizes = np.ones(n * length, np.int32)
        sizes[shared] = np.bincount(asked)[asked] if len(asked) else 0
        grams = np.full(n * length, -1, np.int32)
        hits = np.ones(n * length, np.int32)
        keys = asked * np.int64(65536) + tokens.ravel()[shared]
        grams[shared], hits[shared] = number(keys)
        yield Counts(context, hits.reshape(n, length), sizes.reshape(n, length))

        # A context and its token are the longer context of the next token; the start is the context
        # of the first one.
        contexts[:, 1:] = grams.reshape(n, length)[:, :-1]
        contexts[:, 0] = grams.max(initial=0) + 1
        known = contexts >= 0
        often = np.bincount(contexts[known])
        contexts[known] = np.where(often[contexts[known]] > 1, contexts[known], -1)


def number(keys: NDArray[np.int64]) -> tuple[Ints, Ints]:
    """Numbers from 0 for the distinct keys [m], and how often each is there: int32 [m] each."""
    _, numbers, counts = np.unique(keys, return_inverse=True, return_counts=True)
    return numbers.astype(np.int32), counts.astype(np.int32)[numbers]


@dataclass(frozen=True)
class CopyFigures:
    """What a sampler does with its training images, exactly."""

    log_copy: float  # ln of the chance that a drawn sequence equals one of them
    extraction: dict[int, float]
    """the mean chance that the rest of one follows after its first 1, 2, 4, ... tokens"""
    competitors: float
    """the mean number of other places, over all positions of an image, that share the context but
    not the token before it: there the copy of an image can become that of another"""


def copy_figures(
    tokens: NDArray[np.uint16], contexts: Sequence[int], *, aligned: bool, min_images: int = 1
) -> dict[int, CopyFigures]:
    """The figures of `ntd`, or of `aligned` with `min_images`, trained on `tokens` [n, L], for each
    of `contexts`.

    P(copy) = sum over the distinct images x of prod_i count(context_i x_i) / count(context_i).
    """
    length = tokens.shape[1]
    starts = [2**i for i in range((length - 1).bit_length())]
    _, rows, often = np.unique(tokens, axis=0, return_inverse=True, return_counts=True)
    times = often[rows]  # that each image stands in the corpus
    copies: dict[int, tuple[float, dict[int, float]]] = {}
    figures: dict[int, CopyFigures] = {}
    shorter = np.zeros(tokens.shape, np.int32)  # sizes of contexts that are one token shorter
    log_p = np.zeros(tokens.shape)  # ln p(x_i | context) of every token
    for counts in context_counts(tokens, max(contexts) + 1, aligned=aligned):
        # A context that fewer images share is not used: the shorter one before it stays.
        kept = (counts.sizes >= min_images) | (counts.context == 0)
        log_p[kept] = np.log(counts.hits[kept] / counts.sizes[kept])
        if counts.context - 1 in copies:
            competitors = float((shorter - counts.sizes).sum(1, dtype=np.int64).mean())
            figures[counts.context - 1] = CopyFigures(*copies[counts.context - 1], competitors)
        shorter = counts.sizes
        if counts.context in contexts:
            log_copy = min(0.0, float(logsumexp(log_p.sum(1) - np.log(times))))
            rest = {start: float(np.exp(log_p[:, start:].sum(1)).mean()) for start in starts}
            copies[counts.context] = log_copy, rest
    return {context: figures[context] for context in contexts}


def entropy(column: NDArray[np.uint16]) -> float:
    """Shannon's entropy of tokens [n] in bits, corrected for what was not seen (Miller, 1955).

    >>> round(entropy(np.repeat(np.uint16([1, 2, 3, 4]), 1000)), 3)
    2.001
    """
    counts = np.unique(column, return_counts=True)[1]
    shares = counts / counts.sum()
    unseen = (len(counts) - 1) / (2 * len(column) * np.log(2))
    return float(-(shares * np.log2(shares)).sum() + unseen)


def collision_entropy(hits: Ints) -> float:
    """-log2 of the chance that two of m n-grams, with these counts `hits` [m], are equal (Rényi's
    entropy of order 2), without bias: equal pairs of all pairs. Infinite: none stands twice."""
    m = hits.size
    equal = float((hits.astype(np.float64) - 1).sum())
    return float(np.log2(m) + np.log2(m - 1) - np.log2(equal)) if equal else float("inf")


def gram_entropies(tokens: NDArray[np.uint16], longest: int) -> dict[int, float]:
    """The collision entropy in bits of n-grams of 1, 2 ... `longest` tokens inside an image."""
    counted = context_counts(tokens, min(longest, tokens.shape[1]) - 1, aligned=False)
    return {each.context + 1: collision_entropy(each.hits[:, each.context :]) for each in counted}


def prefix_entropies(tokens: NDArray[np.uint16]) -> Floats:
    """H(x_t | x_1 ... x_{t-1}) of the corpus itself [n, L], in bits, by position: float64 [L].

    They sum to log2 n where all images differ. Where that is used up an image is known (Zheng et
    al., 2026, arXiv:2605.06207, who call it the entropy cliff).
    """
    n, length = tokens.shape
    found = np.zeros(length)
    left = np.arange(n)  # images whose beginning another one shares
    prefix = np.zeros(n, np.int64)
    for position in range(length):
        sizes = np.bincount(prefix)[prefix]
        numbers, hits = number(prefix * np.int64(65536) + tokens[left, position])
        found[position] = np.log2(sizes / hits).sum() / n
        shared = hits > 1
        left = left[shared]
        prefix = numbers[shared].astype(np.int64)
    return found
