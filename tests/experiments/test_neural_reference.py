"""The reference's transformers are distributions over images, and go on where they stopped."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments import neural_reference as module
from experiments.neural_reference import (
    Alphabet,
    Config,
    Training,
    Transformer,
    log2_probabilities,
    measure,
    train,
)
from imagegram.index.build import build_index
from imagegram.samplers import Kernel
from imagegram.token_arrays import tokens_from


@pytest.mark.parametrize("values", [(6,), (3, 2)])
def test_the_chances_of_all_images_sum_to_one(values: tuple[int, ...]) -> None:
    """They would not if a token saw itself or a later one, or with digits that do not exist."""
    alphabet = Alphabet(values, tokens_per_image=3)
    torch.manual_seed(0)
    model = Transformer(alphabet).eval()
    with torch.no_grad():
        for weights in model.parameters():
            weights.add_(torch.randn(weights.shape) / 5)  # far from uniform
    everything = np.array(list(itertools.product(range(6), repeat=3)), np.uint16)
    p = np.exp2(log2_probabilities(model, alphabet.symbols(everything)).sum(1))
    assert p.max() > 3 / 6**3
    assert p.sum() == pytest.approx(1, abs=1e-5)


def test_training_learns_and_goes_on_from_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK_EVERY", 10)
    monkeypatch.setattr(module, "BATCH", 16)
    rng = np.random.default_rng(0)
    first = rng.integers(0, 6, (200, 1))
    # log2(6) bits an image, not twice that
    tokens = np.concatenate([first, (first + 1) % 6], 1).astype(np.uint16)
    alphabet = Alphabet((3, 2), tokens_per_image=2)

    whole = train(Training(alphabet, tokens, 0), tmp_path / "whole.pt", 40)
    assert whole["stopping_bits"] < 0.75 * np.log2(6)
    train(Training(alphabet, tokens, 0), tmp_path / "parts.pt", 20)
    parts = train(Training(alphabet, tokens, 0), tmp_path / "parts.pt", 40)
    assert parts["steps"] == 40
    assert parts["stopping_bits"] == pytest.approx(whole["stopping_bits"], rel=1e-5)


@pytest.mark.parametrize(("images", "patience"), [(200, 500), (53_929, 1622)])
def test_training_stops_after_ten_looks_and_two_epochs_without_a_gain(
    images: int, patience: int
) -> None:
    training = Training(Alphabet((3, 2), tokens_per_image=2), np.zeros((images, 2), np.uint16), 0)
    training.best_step = 7
    training.step = 7 + patience - 1
    assert not training.stopped
    training.step += 1
    assert training.stopped


def test_the_kernel_stands_beside_them_as_fitted(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 6, (80, 2)).astype(np.uint16)
    tokens = tokens_from(images, tmp_path / "tokens", levels=(3, 2))
    index = build_index([tokens.path], tmp_path / "input", tmp_path / "index")
    asked = index.tokens[:9]
    found = measure("kernel", Config(), index, asked)["held_out_bits"]
    fitted = Kernel(temperature=1).probabilities(index, asked)
    assert found.value == pytest.approx(-np.log2(fitted).mean())
