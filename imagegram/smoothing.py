"""Bits per token: how well the `smoothed` sampler's distribution foretells images that the index never saw."""

import numpy as np
from numpy.typing import NDArray

from imagegram.contexts import ladder, tally
from imagegram.index import Index


def bits(index: Index, tokens: NDArray[np.uint16], context: int) -> NDArray[np.float64]:
    """-log2 of the probability of every token of `tokens` [n, L], float64 [n, L], after at most `context` tokens.

    Interpolated Witten-Bell over counts at the same position, p = (c + t * p_shorter) / (n + t); context 0 is the
    smoothed position-unigram. Under the shortest context lies the uniform distribution, since a held-out token may
    occur at its position in no indexed image; the sampler leaves it out, because it names a source for every token.
    """
    result = np.zeros(tokens.shape)
    for rungs in ladder(index.tokens, tokens, context):
        column = index.tokens[rungs.order, rungs.position]
        p = np.full(len(tokens), 1 / index.vocab_size)
        for low, high in zip(rungs.low, rungs.high, strict=True):
            distinct, hits = tally(column, low, high, tokens[:, rungs.position])
            p = np.where(high > low, (hits + distinct * p) / np.maximum(1, high - low + distinct), p)
        result[:, rungs.position] = -np.log2(p)
    return result
