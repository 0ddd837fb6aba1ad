"""Counting all contexts at once agrees with the samplers' distributions and brute force."""

from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray

from imagegram.codec import load_codec
from imagegram.data.dataset import held_out
from imagegram.data.scenes import scene
from imagegram.metrics.counting import (
    context_counts,
    copy_figures,
    entropy,
    gram_entropies,
    prefix_entropies,
)
from imagegram.samplers import Aligned, Ntd
from tests.support.corpora import index_of


@pytest.fixture
def rows() -> NDArray[np.uint16]:
    """Images that share many contexts, some of them several times there."""
    rng = np.random.default_rng(4)
    distinct = (rng.integers(0, 4, (60, 6)) * 73).astype(np.uint16)
    distinct[:30] = rng.integers(0, 512, (30, 6))
    return distinct[rng.permutation(np.repeat(np.arange(60), rng.integers(1, 4, 60)))]


@pytest.mark.parametrize("context", [0, 1, 2, 3, 5, 9])
@pytest.mark.parametrize(("aligned", "min_images"), [(False, 1), (True, 1), (True, 2), (True, 5)])
def test_figures_are_those_of_the_samplers_likelihood(
    tmp_path: Path, rows: NDArray[np.uint16], aligned: bool, min_images: int, context: int
) -> None:
    kind = partial(Aligned, min_images=min_images) if aligned else Ntd
    p = kind(context=context).probabilities(index_of(tmp_path, rows), rows)
    found = copy_figures(rows, [context], aligned=aligned, min_images=min_images)[context]
    distinct = np.unique(rows, axis=0, return_index=True)[1]
    assert np.exp(found.log_copy) == pytest.approx(p[distinct].prod(1).sum())
    rest = {start: p[:, start:].prod(1).mean() for start in (1, 2, 4)}
    assert found.extraction == pytest.approx(rest)


def test_the_smallest_corpus_of_docs_scaling_has_the_figures_that_are_published() -> None:
    ordinals = np.arange(1200)
    indexed = ordinals[~held_out(ordinals, 0.1)][:1000]
    pictures = np.stack([scene(0, int(i))[0] for i in indexed]).transpose(0, 3, 1, 2)
    tokens = load_codec("tiny").encode(torch.from_numpy(np.ascontiguousarray(pictures)))
    table = pd.read_csv(Path(__file__).parents[2] / "docs" / "scaling.csv")
    published = table[(table.dataset == "shapes") & (table.images == 1000) & (table.corpus == 0)]
    published = published.set_index(["quantity", "sampler", "context"]).value
    # Another processor may round a few tokens otherwise.
    for name, least in (("ntd", 1), ("aligned", 1), ("aligned, 2 images", 2)):
        found = copy_figures(tokens, range(1, 11), aligned=name != "ntd", min_images=least)
        for context, figures in found.items():
            copied = published["copy_probability", name, context]
            assert np.exp(figures.log_copy) == pytest.approx(copied, rel=0.05, abs=0.02)
            if least == 1:
                others = published["competitors", name, context]
                assert figures.competitors == pytest.approx(others, rel=0.05, abs=0.02)
    for length, bits in gram_entropies(tokens, 3).items():
        assert bits == pytest.approx(published["collision_bits", "corpus", length], rel=0.05)


def test_counts_are_those_of_every_context_written_out(rows: NDArray[np.uint16]) -> None:
    text = [["start", *row] for row in rows.tolist()]
    counted = list(context_counts(rows, 4, aligned=False))
    assert [counts.context for counts in counted] == [0, 1, 2, 3, 4]
    for counts in counted:
        c = counts.context
        before = [[tuple(line[max(0, i + 1 - c) : i + 1]) for i in range(6)] for line in text]
        after = [list(zip(own, row, strict=True)) for own, row in zip(before, rows, strict=True)]
        sizes = Counter(context for line in before for context in line)
        hits = Counter(gram for line in after for gram in line)
        assert counts.sizes.tolist() == [[sizes[context] for context in line] for line in before]
        assert counts.hits.tolist() == [[hits[gram] for gram in line] for line in after]


def test_collision_entropy_is_that_of_all_pairs(rows: NDArray[np.uint16]) -> None:
    for length, bits in gram_entropies(rows, 3).items():
        grams = [tuple(row[i : i + length]) for row in rows.tolist() for i in range(7 - length)]
        equal = sum(a == b for i, a in enumerate(grams) for b in grams[:i])
        assert bits == pytest.approx(-np.log2(equal / (len(grams) * (len(grams) - 1) / 2)))
    lengths = [list(gram_entropies(rows, longest)) for longest in (2, 99)]
    assert lengths == [[1, 2], [1, 2, 3, 4, 5, 6]]


def test_entropy_of_uniform_tokens_is_known() -> None:
    columns = np.random.default_rng(0).integers(0, 256, (20, 4000)).astype(np.uint16)
    assert np.mean([entropy(column) for column in columns]) == pytest.approx(8, abs=0.003)


def test_competitors_share_the_context_and_not_the_token_before(rows: NDArray[np.uint16]) -> None:
    text = [["start", *row] for row in rows.tolist()]
    # what stands before and the context
    places = [(line[i - 1], line[i]) for line in text for i in range(1, 6)]
    others = sum(a[1] == b[1] and a[0] != b[0] for a in places for b in places)
    figures = copy_figures(rows, [1], aligned=False)[1]
    assert figures.competitors == pytest.approx(others / len(rows))


def test_the_entropies_of_prefixes_sum_to_the_bits_of_the_images() -> None:
    rng = np.random.default_rng(3)
    tokens = rng.integers(0, 3, (60, 7)).astype(np.uint16)
    found = prefix_entropies(tokens)
    for position in range(7):
        bits = []
        for row in tokens:
            before = (tokens[:, :position] == row[:position]).all(1)
            after = before & (tokens[:, position] == row[position])
            bits.append(np.log2(before.sum() / after.sum()))
        assert found[position] == pytest.approx(np.mean(bits))
    shares = np.unique(tokens, axis=0, return_counts=True)[1] / 60
    assert found.sum() == pytest.approx(-(shares * np.log2(shares)).sum())
    distinct = np.unique(tokens, axis=0)
    assert prefix_entropies(distinct).sum() == pytest.approx(np.log2(len(distinct)))
