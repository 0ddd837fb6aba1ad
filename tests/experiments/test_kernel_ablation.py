"""The kernel's variants are models of images: probabilities of all there are sum to one."""

from pathlib import Path

import numpy as np
import pytest

from experiments.kernel_ablation import VARIANTS
from imagegram.index.build import build_index
from imagegram.token_arrays import tokens_from

EVERYTHING = np.stack(np.meshgrid(np.arange(4), np.arange(4)), -1).reshape(16, 2).astype(np.uint16)


@pytest.mark.parametrize("name", ["the default", "not moved", "a vote a digit: no source"])
def test_probabilities_of_all_images_sum_to_one(name: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tokens = tokens_from(EVERYTHING[rng.integers(0, 16, 60)], tmp_path / "tokens", levels=(2, 2))
    index = build_index([tokens.path], tmp_path / "input", tmp_path / "index")
    bits = VARIANTS[name](index, EVERYTHING)
    assert np.exp2(-2 * bits).sum() == pytest.approx(1, abs=1e-5)
