"""A row of the leaderboard is what the sampler's likelihood says, in place of an older one."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from experiments import leaderboard
from experiments.common import Corpus
from imagegram.metrics.held_out import HeldOut
from imagegram.samplers import Aligned
from tests.support.corpora import index_of


def test_a_row_has_the_exact_figures_and_stands_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    index = index_of(tmp_path, rng.integers(0, 8, (60, 3)), vocab_size=8)
    held_out = rng.integers(0, 8, (50, 3)).astype(np.uint16)
    corpus = Corpus(index, HeldOut(held_out, np.zeros(50, np.int64), np.zeros((50, 2), np.int64)))
    monkeypatch.setattr(Corpus, "open", lambda _: corpus)
    monkeypatch.setattr(leaderboard, "SEQUENCES", 100)
    config = leaderboard.Config(tmp_path, "small", "aligned", images=0, out=tmp_path / "board.csv")
    for _ in range(2):
        leaderboard.main(config)
    (row,) = pd.read_csv(config.out).to_dict("records")
    distinct = np.unique(index.tokens, axis=0)
    copies = Aligned().probabilities(index, distinct).prod(1).sum()
    assert row["P(exact copy), as drawn"] == pytest.approx(copies, rel=0.05)
    assert row["data"] == "small"
    assert row["training images"] == 60
