"""The points of the scaling study: what is measured of one corpus. Each returns rows of the table of results."""

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imagegram.codec import Codec
from imagegram.codec.decoding import Decoder
from imagegram.index.folder import Index
from imagegram.metrics.coherence import Classifiers
from imagegram.metrics.counting import copy_figures, gram_entropies, log_probabilities
from imagegram.metrics.exact import exact_figures, extraction
from imagegram.metrics.extrapolate import TIMES, copy_curves
from imagegram.metrics.intervals import Figure, mean
from imagegram.samplers import Aligned, Kernel, Ntd, Smoothed
from imagegram.samplers.aligned import backoff
from imagegram.samplers.ntd import longest_runs

Tokens = NDArray[np.uint16]
Row = dict[str, Any]  # sampler, context, quantity, value; low, high where it is not exact

CONTEXTS = range(1, 11)
COUNTED = {"ntd": ("ntd", 1), "aligned": ("aligned", 1), "aligned, 2 images": ("aligned", 2)}
GRAMS = 6  # tokens: collision entropies up to this length
HELD_OUT = 1000  # images predicted by smoothed counts
KERNEL_IMAGES = 300  # images predicted by the kernel, held out and training each; the same ones at every size
DECODED = 128  # images whose coherence is measured
COHERENT = {
    **{f"ntd, {c}": Ntd(context=c) for c in (1, 2, 3, 4, 6)},
    "aligned, 2 images, 2": Aligned(context=2, min_images=2),
    "smoothed, 2": Smoothed(context=2),
    "kernel, 0": Kernel(),
}
DUPLICATED = (1, 2, 4, 8, 16)  # copies of an image in the corpus
DUPLICATES = 100  # images for each of these


def row(sampler: str, context: int, quantity: str, value: float) -> Row:
    """A row of results without an interval: exact for its corpus."""
    return {"sampler": sampler, "context": context, "quantity": quantity, "value": value}


def figure_row(sampler: str, context: int, quantity: str, figure: Figure) -> Row:
    """A row of a figure with its interval."""
    return row(sampler, context, quantity, figure.value) | {"low": figure.low, "high": figure.high}


def counts_point(tokens: Tokens) -> Iterator[Row]:
    """Exact: P(copy), competitors, extraction by `ntd` after 1, 2, 4, ... tokens; collision entropies of n-grams."""
    for name, (method, min_images) in COUNTED.items():
        counted = copy_figures(tokens, CONTEXTS, aligned=method == "aligned", min_images=min_images)
        for context, figures in counted.items():
            yield row(name, context, "copy_probability", float(np.exp(figures.log_copy)))
            yield row(name, context, "minus_log_copy_probability", -figures.log_copy)
            if min_images == 1:
                yield row(name, context, "competitors", figures.competitors)
            if name == "ntd":
                for start, chance in figures.extraction.items():
                    yield row(name, context, f"extraction_{start}", chance)
    unbounded = tokens.shape[1]
    copied = copy_figures(tokens, [unbounded], aligned=False)[unbounded]
    yield row("ntd", unbounded, "copy_probability", float(np.exp(copied.log_copy)))
    for length, bits in gram_entropies(tokens, GRAMS).items():
        if np.isfinite(bits):
            yield row("corpus", length, "collision_bits", bits)


def law_point(tokens: Tokens) -> Iterator[Row]:
    """P(copy) of a corpus [n, L] as its first tenth predicts it."""
    n = len(tokens)
    for curve in copy_curves(tokens[: n // TIMES[0]], max(CONTEXTS)):
        yield figure_row(curve.sampler, curve.context, "predicted_copy_probability", curve.at(n))


def bits_point(index: Index, held_out: Tokens) -> Iterator[Row]:
    """Held-out bits of the position-unigram and of smoothed counts, and how long contexts match, of HELD_OUT images."""
    asked = held_out[:HELD_OUT]
    rng = np.random.default_rng(0)
    for name, context, sampler in (("unigram", 0, Aligned(context=0)), ("smoothed", 2, Smoothed(context=2))):
        figures = exact_figures(index, sampler, asked, rng)
        yield figure_row(name, context, "copy_probability", figures["exact_copy_probability"])
        for quantity in ("held_out_bits", "training_bits"):
            yield figure_row(name, context, quantity, figures[quantity])
        for position, bits in enumerate(figures["held_out_bits_by_position"], 1):
            yield row(name, context, f"held_out_bits_{position}", bits)

    # In the second half of an image, so that its start does not cut contexts short.
    half = asked.shape[1] // 2
    depths = [
        (shared.high[1:] > shared.low[1:]).sum(0)
        for shared in backoff(index.tokens, asked, asked.shape[1])
        if shared.position >= half
    ]
    yield figure_row("aligned", 0, "match_length", mean(np.mean(depths, 0), rng))
    yield figure_row("ntd", 0, "match_length", mean(longest_runs(index, asked)[:, :half].mean(1), rng))


def kernel_point(index: Index, held_out: Tokens) -> Iterator[Row]:
    """Held-out bits, P(copy) and extraction of the kernel, of the first held-out and of random training images."""
    rng = np.random.default_rng(0)
    started = time.perf_counter()
    Kernel().probabilities(index, held_out[:1])
    yield row("kernel", 0, "seconds_fit", time.perf_counter() - started)

    started = time.perf_counter()
    p = Kernel().probabilities(index, held_out[:KERNEL_IMAGES])
    yield row("kernel", 0, "seconds_an_image", (time.perf_counter() - started) / len(p))
    yield figure_row("kernel", 0, "held_out_bits", mean(-np.log2(p).mean(1), rng))
    for position in range(p.shape[1]):
        yield figure_row("kernel", 0, f"held_out_bits_{position + 1}", mean(-np.log2(p[:, position]), rng))
    for start, figure in extraction(p, rng).items():
        yield figure_row("kernel", 0, f"held_out_extraction_{start}", figure)

    rows = rng.permutation(index.num_images)[:KERNEL_IMAGES]
    p = Kernel().probabilities(index, np.ascontiguousarray(index.tokens[rows]))
    yield figure_row("kernel", 0, "training_bits", mean(-np.log2(p).mean(1), rng))
    yield figure_row("kernel", 0, "copy_probability", mean(p.prod(1), rng).scaled(index.num_images))
    for start, figure in extraction(p, rng).items():
        yield figure_row("kernel", 0, f"extraction_{start}", figure)


def coherence_point(index: Index, codec: Codec, classifiers: Classifiers) -> Iterator[Row]:
    """Coherence of DECODED images of several samplers, and of the held-out ones."""
    for name, coherent in COHERENT.items():
        drawn = coherent.sample(index, DECODED, np.random.default_rng(0)).tokens
        figures = classifiers.measure(Decoder(codec)(drawn), np.random.default_rng(0))
        sampler, context = name.rsplit(", ", 1)
        for quantity in ("coherence", "density", "coverage"):
            yield figure_row(sampler, int(context), quantity, figures["generated"][quantity])
    yield figure_row("held out", 0, "coherence", figures["held_out"]["coherence"])


def duplicates_point(tokens: Tokens) -> Iterator[Row]:
    """How often an image with m copies in the corpus comes out, as a multiple of one without copies.

    DUPLICATES distinct images for each m; the corpus [n, L] has them in place of its last images.
    """
    times = np.repeat(DUPLICATED, DUPLICATES)
    planted = tokens[: len(times)]
    rest = len(tokens) - int(times.sum())
    corpus = np.concatenate([np.repeat(planted, times, axis=0), tokens[len(times) : len(times) + rest]])
    first = np.cumsum(times) - times
    unbounded = tokens.shape[1]
    for counts, log_p in log_probabilities(corpus, unbounded, aligned=False):
        if counts.context not in (2, 3, 4, 6, unbounded):
            continue
        chance = np.exp(log_p[first].sum(1)).reshape(len(DUPLICATED), DUPLICATES).mean(1)
        for m, one in zip(DUPLICATED, chance, strict=True):
            yield row("ntd", counts.context, f"duplicate_{m}", float(one / chance[0]))
