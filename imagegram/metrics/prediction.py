"""Held-out bits per token of plain and of smoothed counts: how much the tokens before tell about the next."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from imagegram.files import read_json, write_json
from imagegram.index.folder import Index
from imagegram.metrics.held_out import Control
from imagegram.metrics.intervals import Figure, mean
from imagegram.samplers.aligned import backoff
from imagegram.samplers.smoothed import count_distinct, discounts


def bits(index: Index, tokens: NDArray[np.uint16], context: int, smoothed: bool = True) -> NDArray[np.float64]:
    """-log2 of the probability of every token of `tokens` [n, L], float64 [n, L], after at most `context` tokens.

    Context 0 is the position-unigram. Under the shortest context lies the uniform distribution, since a held-out token
    may occur at its position in no indexed image; the sampler leaves it out, because it names a source for every
    token. Not `smoothed`: the counts of the longest context that occurs, and the uniform distribution one time in a
    hundred, without which the bits are infinite.
    """
    result = np.zeros(tokens.shape)
    contexts = backoff(index.tokens, tokens, context)
    for levels in tqdm(contexts, total=tokens.shape[1], desc="held-out bits", unit="position", delay=3):
        column = levels.following
        p = np.full(len(tokens), 1 / index.vocab_size)
        for low, high, discount in zip(levels.low, levels.high, discounts(levels), strict=True):
            distinct, hits = count_distinct(column, low, high, tokens[:, levels.position])
            taken, shorter = (discount, discount * distinct * p) if smoothed else (0, 0)
            mixed = (np.maximum(hits - taken, 0) + shorter) / np.maximum(1, high - low)
            p = np.where(high > low, mixed, p)
        result[:, levels.position] = -np.log2(p if smoothed else 0.99 * p + 0.01 / index.vocab_size)
    return result


def held_out_bits(
    index: Index, held_out: NDArray[np.uint16], rng: np.random.Generator, contexts: Sequence[int] = (1, 2, 3)
) -> dict[str, Figure]:
    """Bits per token of held-out images [M, L], with intervals over images: of the position-unigram, and of counts of
    every length of context with and without smoothing."""
    ways = [("position-unigram", 0, True), ("position-unigram, unsmoothed", 0, False)]
    ways += [(f"{kind}, context {n}", n, kind == "smoothed") for kind in ("smoothed", "unsmoothed") for n in contexts]
    return {name: mean(bits(index, held_out, n, smoothed).mean(1), rng) for name, n, smoothed in ways}


def held_out_figures(index: Index, control: Control, path: Path) -> dict[str, Figure]:
    """`held_out_bits` of at most 1,000 held-out images; kept in `path`."""
    if path.exists() and (before := read_json(path))["index"] == index.identity:
        return dict(before["bits"])
    rng = np.random.default_rng(0)
    chosen = np.sort(rng.permutation(len(control.tokens))[:1000])
    bits = held_out_bits(index, control.tokens[chosen], rng) if len(chosen) else {}
    write_json(path, {"index": index.identity, "bits": bits})
    return bits
