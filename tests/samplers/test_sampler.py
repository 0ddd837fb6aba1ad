"""Samplers draw from exactly the distributions of brute force, and name where tokens came from."""

import zlib
from collections import Counter

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import chi2, norm

from imagegram.cli import UserError
from imagegram.codec.fsq import fsq_codes
from imagegram.codec.tiny_flextok import FSQ
from imagegram.index.engine import Engine
from imagegram.samplers import SAMPLERS, Aligned, Ntd, Sampler, Samples, Smoothed, sampler_named
from imagegram.samplers.matches import truncated
from imagegram.samplers.ntd import matches_anywhere
from imagegram.tokens import SEPARATOR, TERMINATOR
from tests.support.corpora import assert_same, corpora, shared_index_of
from tests.support.reference import ntd

Distribution = dict[int, float]


def anywhere(training: list[list[int]], prefix: list[int], context: int) -> Distribution:
    """Next tokens after the longest suffix of the last `context` tokens that occurs anywhere with a
    token after it."""
    text = [SEPARATOR, *prefix]
    for length in range(min(context, len(text)), -1, -1):
        suffix = text[len(text) - length :]
        lines = [[SEPARATOR, *row] for row in training]
        follows = Counter(
            line[i + length]
            for line in lines
            for i in range(len(line) - length)
            if line[i : i + length] == suffix and line[i + length] != SEPARATOR
        )
        if follows:
            return {t: c / follows.total() for t, c in follows.items()}
    raise AssertionError


def aligned(
    training: list[list[int]], prefix: list[int], context: int, images: int, anchor: int
) -> Distribution:
    """Next tokens of images with the same tokens at the same places, the context shortened until
    enough share it."""
    i = len(prefix)
    pool = [row for row in training if row[: min(anchor, i)] == prefix[: min(anchor, i)]]
    best = pool
    for length in range(1, min(context, i - anchor) + 1):
        pool = [row for row in pool if row[i - length] == prefix[i - length]]
        if len(pool) < images:
            break
        best = pool
    follows = Counter(row[i] for row in best)
    return {t: c / follows.total() for t, c in follows.items()}


def check(
    samples: NDArray[np.uint16], expected: "dict[tuple[int, ...], Distribution]", position: int
) -> None:
    """Chi-square test of the tokens drawn at `position` after every prefix seen often; nothing
    impossible occurs."""
    groups: dict[tuple[int, ...], Counter[int]] = {}
    for row in samples.tolist():
        groups.setdefault(tuple(row[:position]), Counter())[row[position]] += 1
    statistic, freedom = 0.0, 0
    for prefix, counts in groups.items():
        wanted = expected[prefix]
        assert set(counts) <= set(wanted)
        n = counts.total()
        if n >= 200:
            statistic += sum((counts[t] - n * p) ** 2 / (n * p) for t, p in wanted.items())
            freedom += len(wanted) - 1
    if freedom:  # at five sigma: the seed is fixed, a wrong sampler is far off
        assert chi2.sf(statistic, freedom) > norm.sf(5)


SMALL = np.random.default_rng(5).integers(0, 3, (30, 5))


@pytest.mark.parametrize("shard_images", [0, 7])
@pytest.mark.parametrize("context", [1, 2, 9])
def test_ntd_samples_the_exact_distribution(context: int, shard_images: int) -> None:
    index = shared_index_of(SMALL, shard_images=shard_images)
    drawn = Ntd(context=context).sample(index, 20_000, np.random.default_rng(1)).tokens
    rows = SMALL.tolist()
    for position in range(5):
        prefixes = {tuple(r[:position]) for r in drawn.tolist()}
        check(drawn, {p: anywhere(rows, list(p), context) for p in prefixes}, position)


def test_ntd_draws_from_what_fastgram_answers() -> None:
    index = shared_index_of(SMALL, shard_images=11)
    engine = Engine(index)
    drawn = np.zeros((30, 5), np.uint16)
    drawn[:, :4] = np.random.default_rng(11).integers(0, 3, (30, 4))  # prefixes that need not occur
    for position, matches in enumerate(matches_anywhere(index, drawn, 3)):
        for row in range(len(drawn)):
            every = np.arange(matches.counts[row])
            tokens, _ = matches.next_tokens(np.full(len(every), row), every)
            counts = Counter(tokens.tolist())
            context = [SEPARATOR, *drawn[row, :position].tolist()][-3:]
            assert counts == ntd(engine, context)


@pytest.mark.parametrize(
    ("context", "images", "anchor"),
    [(1, 1, 0), (2, 1, 0), (3, 4, 0), (2, 2, 1), (1, 2, 2), (9, 1, 0)],
)
def test_aligned_samples_the_exact_distribution(context: int, images: int, anchor: int) -> None:
    index = shared_index_of(SMALL)
    sampler = Aligned(context=context, min_images=images, anchor=anchor)
    drawn = sampler.sample(index, 20_000, np.random.default_rng(2)).tokens
    rows, how = SMALL.tolist(), (context, images, anchor)
    for position in range(5):
        prefixes = {tuple(r[:position]) for r in drawn.tolist()}
        check(drawn, {p: aligned(rows, list(p), *how) for p in prefixes}, position)


def discounted(rows: list[list[int]], prefix: list[int], context: int) -> Distribution:
    """p = (c - D + D * t * p_shorter) / n from the shortest context up to the longest that occurs,
    where D is n1 / (n1 + 2 n2) of all contexts of that length at that position; counts at the
    bottom."""
    i, p = len(prefix), Distribution()
    for length in range(min(context, i) + 1):
        follows = Counter(row[i] for row in rows if row[i - length : i] == prefix[i - length :])
        if length == 0:
            p = {token: c / follows.total() for token, c in follows.items()}
            continue
        times = Counter(Counter((*row[i - length : i], row[i]) for row in rows).values())
        d = max(0.1, times[1] / max(1, times[1] + 2 * times[2]))
        n, t = follows.total(), len(follows)
        if n:
            p = {
                token: (max(0, follows[token] - d) + d * t * p.get(token, 0)) / n
                for token in {*p, *follows}
            }
    return p


# discounts of all sizes
RARE = np.minimum(np.random.default_rng(15).geometric(0.4, (30, 5)) - 1, 6)


@pytest.mark.parametrize("context", [1, 2, 9])
@pytest.mark.parametrize("rows", [SMALL, RARE], ids=["few tokens", "rare tokens"])
def test_smoothed_samples_the_exact_distribution(rows: NDArray[np.int64], context: int) -> None:
    index = shared_index_of(rows, 7)
    sampler = Smoothed(context=context)
    drawn = sampler.sample(index, 20_000, np.random.default_rng(12)).tokens
    exact = sampler.probabilities(index, drawn[:50])
    for position in range(5):
        prefixes = {tuple(r[:position]) for r in drawn.tolist()}
        expected = {p: discounted(rows.tolist(), list(p), context) for p in prefixes}
        check(drawn, expected, position)
        of_rows = [expected[tuple(r[:position])][r[position]] for r in drawn[:50].tolist()]
        assert exact[:, position] == pytest.approx(np.array(of_rows))


@pytest.mark.parametrize("method", ["ntd", "aligned", "smoothed"])
def test_temperature_top_k_and_top_p_reweigh_the_final_distribution(method: str) -> None:
    index = shared_index_of(RARE, 7)
    one_image = {"min_images": 1} if method == "aligned" else {}
    sampler = sampler_named(method, context=1, temperature=0.5, top_k=3, top_p=0.9, **one_image)
    drawn = sampler.sample(index, 5_000, np.random.default_rng(3)).tokens
    rows, expected = RARE.tolist(), {}
    for prefix in {tuple(r[:2]) for r in drawn.tolist()}:
        full = {
            "ntd": lambda p: anywhere(rows, p, 1),
            "aligned": lambda p: aligned(rows, p, 1, 1, 0),
            "smoothed": lambda p: discounted(rows, p, 1),
        }[method](list(prefix))
        kept = sorted(full.items(), key=lambda item: (-item[1], item[0]))[:3]
        total, nucleus, reached = sum(p**2 for _, p in kept), {}, 0.0
        for token, p in kept:
            if reached < 0.9:
                nucleus[token] = p**2 / total
            reached += p**2 / total
        expected[prefix] = {t: p / sum(nucleus.values()) for t, p in nucleus.items()}
    check(drawn, expected, 2)


@pytest.mark.parametrize("method", SAMPLERS)
def test_the_first_token_can_be_that_of_a_class(method: str) -> None:
    index = shared_index_of(np.arange(30)[:, None] + np.zeros((1, 4), int))  # labels 0, 1, 2, 0 ...
    drawn = SAMPLERS[method](label="2").sample(index, 200, np.random.default_rng(0))
    assert set(drawn.tokens[:, 0].tolist()) == set(range(2, 30, 3))
    assert (index.labels[drawn.sources[:, 0, 0]] == 2).all()
    with pytest.raises(UserError, match="no image of class '7'"):
        SAMPLERS[method](label="7").sample(index, 1, np.random.default_rng(0))


@pytest.mark.parametrize("name", corpora())
@pytest.mark.parametrize(
    "sampler",
    [
        Ntd(context=3),
        Ntd(context=2, temperature=0.7),
        Aligned(),
        Aligned(context=3, min_images=2, anchor=1),
        Smoothed(context=3),
        Smoothed(context=2, temperature=0.7),
    ],
)
def test_every_token_stands_where_its_source_says(name: str, sampler: Sampler) -> None:
    index = shared_index_of(corpora()[name], TERMINATOR, shard_images=6)
    drawn = sampler.sample(index, 50, np.random.default_rng(4))
    rows, positions = drawn.sources[..., 0], drawn.sources[..., 1]
    assert np.array_equal(index.tokens[rows, positions], drawn.tokens)
    assert positions.min() >= 0
    if not isinstance(sampler, Ntd):
        assert (positions == np.arange(index.tokens_per_image)).all()


def test_codes_are_those_of_the_quantizer() -> None:
    ids = np.arange(8 * 5 * 3)
    expected = FSQ((8, 5, 3)).to_codes(torch.from_numpy(ids)).numpy()
    assert np.allclose(fsq_codes(ids, (8, 5, 3)), expected)


@pytest.mark.parametrize("method", SAMPLERS)
def test_fewer_tokens_are_the_first_of_the_whole(method: str) -> None:
    index = shared_index_of(SMALL)
    whole, part = (
        SAMPLERS[method]().sample(index, 50, np.random.default_rng(1), length=k) for k in (0, 3)
    )
    assert_same(part, Samples(whole.tokens[:, :3], whole.sources[:, :3]))
    with pytest.raises(UserError, match="has 5"):
        SAMPLERS[method]().sample(index, 1, np.random.default_rng(1), length=6)


@pytest.mark.parametrize("sampler", [Ntd(context=99), Aligned(context=99, min_images=1)])
def test_a_given_prefix_is_completed(sampler: Sampler) -> None:
    index = shared_index_of(np.random.default_rng(14).integers(0, 512, (50, 8)))
    drawn = sampler.sample(index, 50, np.random.default_rng(0), prefix=index.tokens[:, :3])
    assert np.array_equal(drawn.tokens, index.tokens)
    assert (drawn.sources[:, :3] == -1).all()
    assert np.array_equal(drawn.sources[:, 3:, 0], np.tile(np.arange(50)[:, None], 5))
    # Nothing is left to draw after a whole image.
    whole = sampler.sample(index, 50, np.random.default_rng(0), prefix=index.tokens)
    assert np.array_equal(whole.tokens, index.tokens)
    assert (whole.sources == -1).all()


def test_the_first_of_two_tokens_as_likely_is_the_top_one() -> None:
    index = shared_index_of(np.array([[7, 1], [5, 1]]))
    drawn = Aligned(context=0, top_k=1).sample(index, 50, np.random.default_rng(0)).tokens
    assert np.unique(drawn, axis=0).tolist() == [[5, 1]]


def test_truncation_by_hand() -> None:
    counts = np.array([1, 4, 3])
    assert np.allclose(truncated(counts), [1 / 8, 4 / 8, 3 / 8])
    assert np.allclose(truncated(counts, 0.5), np.array([1, 16, 9]) / 26)
    assert np.allclose(truncated(counts, 1, 2), [0, 4 / 7, 3 / 7])
    assert np.allclose(truncated(counts, 0.01), [0, 1, 0], atol=1e-6)
    assert np.allclose(truncated(counts, 1, 9), [1 / 8, 4 / 8, 3 / 8])
    assert np.allclose(truncated(counts, top_p=0.4), [0, 1, 0])
    assert np.allclose(truncated(counts, top_p=0.6), [0, 4 / 7, 3 / 7])
    assert np.allclose(truncated(np.array([0, 2, 2, 0])), [0, 0.5, 0.5, 0])
    # the fewest that reach it, ties by order
    assert np.allclose(truncated(np.array([2, 2]), top_p=0.5), [1, 0])


@pytest.mark.parametrize(
    ("sampler", "tokens", "sources"),
    [
        (Ntd(context=3), 3051788554, 1294181401),
        (Aligned(context=2, temperature=0.7), 4049386285, 943035499),
        (Smoothed(context=2), 2515704599, 405980998),
        (Smoothed(context=1, top_p=0.8), 705581133, 3497718934),
    ],
)
def test_a_seed_draws_what_it_always_drew(sampler: Sampler, tokens: int, sources: int) -> None:
    """Finished nights stay comparable."""
    drawn = sampler.sample(shared_index_of(RARE * 73), 200, np.random.default_rng(1))
    assert zlib.crc32(drawn.tokens.tobytes()) == tokens
    assert zlib.crc32(drawn.sources.tobytes()) == sources
