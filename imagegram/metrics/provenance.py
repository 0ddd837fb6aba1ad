"""What is known of every single picture: what it copied from where, and what it is nearest to."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from imagegram.codec.fsq import fsq_digits
from imagegram.index.engine import Engine
from imagegram.index.folder import Index
from imagegram.metrics.copying import KINDS, RUN, aligned_runs, classify, nearest
from imagegram.metrics.nearest import two_nearest
from imagegram.samplers import Sampler, Samples


def describe_pictures(
    index: Index,
    tokens: NDArray[np.uint16],
    samples: Samples | None = None,
    sampler: Sampler | None = None,
) -> list[dict[str, Any]]:
    """For each sequence of `tokens` uint16 [n, k], as JSON:

    kind: one of KINDS. longest_run: tokens in a row that stand in one training image, anywhere.
    nearest: data set and ordinal of the training image that differs in the fewest tokens; differs:
    in how many; same: "1" for every token that equals its. Where the codec has codes,
    nearest_in_codes likewise, and gap_ratio: how far it is, divided by the distance to the second
    nearest (f_mem of nearest.py).

    With `samples` that were drawn, steps: how many levels of the FSQ code lie between every token
    and that of its source; runs: the tokens copied in a row, see `copied_runs`. With the `sampler`
    that drew them whole, log2_probability: None where it has none; because, where it moves tokens:
    of every token the earlier ones that moved it most.
    """
    rows, distances = nearest(tokens, index.tokens)
    lengths = Engine(index).longest_matches(tokens)
    kinds = classify(lengths, aligned_runs(tokens, index.tokens))
    same = (tokens == index.tokens[rows, : tokens.shape[1]]).astype(int)
    facts: list[dict[str, Any]] = [
        {
            "kind": KINDS[kinds[i]],
            "longest_run": int(lengths[i].max()),
            "nearest": index.images[rows[i], :2].tolist(),
            "differs": int(distances[i]),
            "same": "".join(map(str, same[i])),
        }
        for i in range(len(tokens))
    ]

    if index.levels:
        training, first = np.unique(index.tokens[:, : tokens.shape[1]], axis=0, return_index=True)
        codes = two_nearest(tokens, training, index.levels)
        # the images of `training` are distinct: the second is not 0
        ratios = codes.first / codes.second
        for fact, row, ratio in zip(facts, first[codes.rows], ratios, strict=True):
            fact["nearest_in_codes"] = index.images[row, :2].tolist()
            fact["gap_ratio"] = round(float(ratio), 3)

    if samples is not None:
        sources = samples.sources[: len(tokens)]
        steps = steps_away(index, tokens, sources)
        surprise = unigram_bits(index, tokens)
        for i, fact in enumerate(facts):
            fact["steps"] = steps[i].tolist()
            fact["runs"] = copied_runs(sources[i], steps[i], surprise[i])

        if sampler is not None:
            _ask(sampler, index, tokens, sources, facts)
    return facts


def _ask(
    sampler: Sampler,
    index: Index,
    tokens: NDArray[np.uint16],
    sources: NDArray[np.int64],
    facts: list[dict[str, Any]],
) -> None:
    """Add to the facts of sequences [n, k] what the sampler that drew them says."""
    reasons = sampler.reasons(index, tokens, sources[..., 0])
    with np.errstate(divide="ignore"):
        total = np.log2(sampler.probabilities(index, tokens).astype(np.float64)).sum(1)
    for i, fact in enumerate(facts):
        if reasons is not None:
            fact["because"] = [row[row >= 0].tolist() for row in reasons[i]]
        is_possible = np.isfinite(total[i])
        fact["log2_probability"] = round(float(total[i]), 1) if is_possible else None


def traced(index: Index, tokens: NDArray[np.uint16]) -> NDArray[np.int64]:
    """Where each token of sequences [n, k] may have come from, whoever drew them: int64 [n, k, 2],
    row of the index and position; -1 where a token stands nowhere.

    The longest run that stands in a training image is taken first, then the longest that goes on
    from its end: as few pieces as can be. Of several places one where the run stood is taken, and
    of these the first.
    """
    engine = Engine(index)
    lengths = engine.longest_matches(tokens)
    sources = np.full((*tokens.shape, 2), -1, np.int64)
    for i, row in enumerate(tqdm(tokens, desc="tracing tokens", unit="sequence", delay=3)):
        start = 0
        while start < len(row):
            length = int(lengths[i, start])
            if length:
                run = slice(start, start + length)
                images, ends = np.divmod(engine.offsets(row[run]), index.tokens_per_image + 1)
                positions = ends - 1  # a separator stands before each image
                which = np.lexsort((images, positions != start))[0]
                sources[i, run, 0] = images[which]
                sources[i, run, 1] = positions[which] + np.arange(length)
            start += max(1, length)
    return sources


def steps_away(
    index: Index, tokens: NDArray[np.uint16], sources: NDArray[np.int64]
) -> NDArray[np.int64]:
    """How many levels lie between every token [n, k] and that of its source [n, k, 2], summed over
    the digits of their FSQ codes; without codes 1 where they differ. 0 for given tokens."""
    rows = sources[..., 0]
    origin = index.tokens[rows.clip(min=0), sources[..., 1].clip(min=0)]
    steps = (tokens != origin).astype(np.int64)
    if index.levels:
        drawn = fsq_digits(tokens, index.levels).astype(np.int64)
        steps = np.abs(drawn - fsq_digits(origin, index.levels)).sum(-1)
    return np.where(rows < 0, 0, steps)


def unigram_bits(index: Index, tokens: NDArray[np.uint16]) -> NDArray[np.float64]:
    """-log2 of the share of training images (one at least) with the token there: [n, k]."""
    counts = [
        np.bincount(index.tokens[:, position], minlength=index.vocab_size)[column]
        for position, column in enumerate(tokens.T)
    ]
    return np.log2(index.num_images / np.stack(counts, 1).clip(min=1))


def copied_runs(
    sources: NDArray[np.int64], steps: NDArray[np.int64], surprise: NDArray[np.float64]
) -> list[list]:
    """Runs of RUN tokens or more copied in a row from one image, of one sequence: [first, number,
    bits], the most surprising first. sources: row and position [k, 2]; steps, surprise: [k]."""
    copied = (sources[:, 0] >= 0) & (steps == 0)
    follows = copied[1:] & copied[:-1] & (np.diff(sources, axis=0) == (0, 1)).all(1)
    parts = np.split(np.arange(len(sources)), np.flatnonzero(~follows) + 1)
    long = [part for part in parts if copied[part[0]] and len(part) >= RUN]
    runs = [[int(part[0]), len(part), round(float(surprise[part].sum()), 1)] for part in long]
    return sorted(runs, key=lambda run: -run[2])
