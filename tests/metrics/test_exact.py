"""Figures from the likelihood agree with closed forms and with what is sampled."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from imagegram.index.folder import Index
from imagegram.metrics import exact
from imagegram.metrics.exact import exact_figures, extraction
from imagegram.samplers import Aligned, Kernel, Sampler
from tests.support.corpora import index_of

ROWS = np.random.default_rng(4).integers(0, 5, (60, 4)) * 73


def asked(index: Index, sampler: Sampler, held_out: NDArray = ROWS[:0]) -> dict[str, Any]:
    return exact_figures(index, sampler, held_out.astype(np.uint16), np.random.default_rng(0))


def test_independent_tokens_have_their_cross_entropy(tmp_path: Path) -> None:
    index = index_of(tmp_path, ROWS)
    figures = asked(index, Aligned(context=0), ROWS)
    share = 1 - figures["floor_share"]
    shares = (ROWS[:, None] == ROWS).mean(1)
    expected = -np.log2(share * shares + (1 - share) / 512)
    assert figures["held_out_bits"].value == pytest.approx(expected.mean())
    by_position = expected.mean(0).tolist()
    assert figures["held_out_bits_by_position"] == pytest.approx(by_position, abs=1e-4)
    distinct = np.unique(ROWS, axis=0, return_index=True)[1]
    assert figures["training_bits"].value == pytest.approx(expected[distinct].mean())
    known, real = (figures["extraction"][who]["2"].value for who in ("training", "held_out"))
    assert known == pytest.approx(shares[distinct, 2:].prod(1).mean())
    assert real == pytest.approx(shares[:, 2:].prod(1).mean())
    assert figures["distinct_training_images"] == figures["exact_copy_images"] == len(distinct)
    assert figures["exact_copy_probability"].value == pytest.approx(shares[distinct].prod(1).sum())


def test_a_share_of_the_images_stands_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = index_of(tmp_path, ROWS)
    sampler = Aligned(context=1, min_images=1)
    whole = asked(index, sampler)["exact_copy_probability"]
    monkeypatch.setattr(exact, "MOST_TRAINING", 30)
    part = asked(index, sampler)
    assert part["exact_copy_images"] == 30
    figure = part["exact_copy_probability"]
    assert whole.exact
    assert not figure.exact
    assert figure.low / 1.5 < whole.value < figure.high * 1.5
    assert figure.low < figure.value < figure.high


def test_a_large_kernel_is_asked_for_a_fortieth_of_the_images_at_least(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = index_of(tmp_path, np.random.default_rng(5).integers(0, 512, (80, 2)))
    monkeypatch.setattr("imagegram.samplers.kernel.fit.STEPS", 3)
    for pairs, images in ((1, 2000 // 40), (1 << 40, 80)):
        monkeypatch.setattr("imagegram.samplers.kernel.sampler.PAIRS", pairs)
        assert asked(index, Kernel())["exact_copy_images"] == images


def test_the_floor_is_fitted_to_images_that_the_others_predict(tmp_path: Path) -> None:
    index = index_of(tmp_path, ROWS)
    sampler = Aligned(context=1, min_images=1)
    figures = asked(index, sampler)
    p = np.zeros(ROWS.shape)
    for image, position in np.ndindex(*ROWS.shape):
        alike = np.delete(ROWS, image, 0)
        if position:
            alike = alike[alike[:, position - 1] == ROWS[image, position - 1]]
        p[image, position] = np.mean(alike[:, position] == ROWS[image, position])
    p = p[np.unique(ROWS, axis=0, return_index=True)[1]]
    shares = np.linspace(0.001, 0.999, 999)
    losses = [-np.log2(share * p + (1 - share) / 512).mean() for share in shares]
    assert 1 - figures["floor_share"] == pytest.approx(shares[int(np.argmin(losses))], abs=2e-3)
    assert figures["left_out_bits"].value == pytest.approx(min(losses), abs=1e-3)
    assert "held_out_bits" not in figures


def test_extraction_is_the_mean_chance_of_the_rest_after_1_2_4_tokens() -> None:
    rng = np.random.default_rng(0)
    table = extraction(np.array([[0.1, 0.5, 0.5, 1.0], [0.2, 1.0, 1.0, 0.5]]), rng)
    assert {key: figure.value for key, figure in table.items()} == {"1": 0.375, "2": 0.5}
