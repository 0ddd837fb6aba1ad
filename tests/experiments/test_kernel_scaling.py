"""How the kernel's bits scale: its figures where all of a tiny alphabet can be written down."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from experiments import kernel_scaling
from experiments.kernel_scaling import Config, main, measure
from imagegram.token_arrays import tokens_from

LEVELS = (2, 2)
EVERYTHING = np.stack(np.meshgrid(np.arange(4), np.arange(4)), -1).reshape(16, 2).astype(np.uint16)


def test_who_has_indexed_all_there_is_draws_copies_alone() -> None:
    found = measure(np.repeat(EVERYTHING, 3, 0), EVERYTHING, LEVELS, asked=16)
    assert found["copies_as_fitted"] == pytest.approx(1)
    assert found["copies_as_drawn"] == pytest.approx(1)
    assert found["held_out_bits"] < 2.5  # uniform tokens have 2


def test_each_size_is_a_row_and_is_measured_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel_scaling, "SMALLEST", 24)
    tokens = np.random.default_rng(0).integers(0, 4, (120, 2)).astype(np.uint16)
    folder = tokens_from(tokens, tmp_path / "tokens", levels=LEVELS)
    config = Config(folder.path, largest=100, asked=8, out=tmp_path / "scaling.csv")
    main(config)
    table = pd.read_csv(config.out)
    assert table.images.tolist() == [24, 96, 100]
    assert (table.held_out_bits_low < table.held_out_bits).all()
    monkeypatch.setattr(kernel_scaling, "measure", None)
    main(config)
    assert config.out.with_suffix(".png").exists()
    monkeypatch.undo()

    # Another corpus of the same name is another curve.
    monkeypatch.setattr(kernel_scaling, "SMALLEST", 24)
    other = tokens_from(tokens[::-1], tmp_path / "other", levels=LEVELS)
    main(Config(other.path, largest=96, asked=8, out=config.out))
    table = pd.read_csv(config.out)
    assert table.images.tolist() == [24, 96, 100, 24, 96]
    assert len(set(table.corpus)) == 2
