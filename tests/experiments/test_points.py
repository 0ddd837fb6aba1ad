"""Points of the scaling study against closed forms, and the smallest one against the results that are published."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments.scaling import points
from imagegram.codec import load_codec
from imagegram.data.dataset import held_out
from imagegram.data.scenes import scene
from imagegram.metrics.counting import copy_figures
from tests.support.corpora import index_of

RESULTS = Path(__file__).parents[2] / "docs" / "scaling.csv"


def test_the_smallest_point_is_what_is_published() -> None:
    ordinals = np.arange(1200)
    indexed = ordinals[~held_out(ordinals, 0.1)][:1000]
    pictures = np.stack([scene(0, int(i))[0] for i in indexed]).transpose(0, 3, 1, 2)
    tokens = load_codec("tiny").encode(torch.from_numpy(np.ascontiguousarray(pictures)))

    measured = {(r["sampler"], r["context"], r["quantity"]): r["value"] for r in points.counts_point(tokens)}
    with RESULTS.open() as file:
        published = [
            row
            for row in csv.DictReader(file)
            if (row["dataset"], row["images"], row["corpus"]) == ("shapes", "1000", "0")
        ]
    compared = 0
    for row in published:
        key = (row["sampler"], int(row["context"]), row["quantity"])
        if key in measured:
            # Another processor may round a few tokens otherwise.
            assert measured[key] == pytest.approx(float(row["value"]), rel=0.05, abs=0.02), key
            compared += 1
    assert compared == len(measured)


def test_duplicates_come_out_as_often_as_they_are_there_when_the_context_is_unbounded() -> None:
    tokens = np.random.default_rng(0).integers(0, 30, (4000, 6)).astype(np.uint16)
    rows = {(r["context"], r["quantity"]): r["value"] for r in points.duplicates_point(tokens)}
    for m in points.DUPLICATED:
        assert rows[6, f"duplicate_{m}"] == pytest.approx(m, rel=1e-9)
    assert rows[2, "duplicate_16"] > 32  # with a bounded one they also win more of the branchings


def test_counted_and_sampled_figures_of_a_corpus(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    tokens = rng.integers(0, 20, (200, 4)).astype(np.uint16)
    index = index_of(tmp_path, tokens)
    rows = {(r["sampler"], r["context"], r["quantity"]): r["value"] for r in points.counts_point(tokens)}
    copied = copy_figures(tokens, [2], aligned=True, min_images=2)[2].log_copy
    assert rows["aligned, 2 images", 2, "copy_probability"] == pytest.approx(np.exp(copied))
    assert rows["ntd", 4, "copy_probability"] == pytest.approx(1)

    # A held-out image that is in the corpus matches from its start.
    figures = {(r["sampler"], r["quantity"]): r["value"] for r in points.bits_point(index, tokens[:50])}
    assert figures["aligned", "match_length"] == pytest.approx(2.5)
    assert figures["ntd", "match_length"] == pytest.approx(3.5)
    assert figures["smoothed", "held_out_bits"] < figures["unigram", "held_out_bits"]
