"""Planted copies, splices and noise come out as what they are, and runs as brute force has them."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from imagegram.codec.fsq import fsq_codes
from imagegram.index.engine import Engine
from imagegram.index.folder import Index
from imagegram.metrics import copying as m
from imagegram.metrics.registry import CLOSER, CLOSER_IN_CODES
from tests.support.corpora import index_of

RNG = np.random.default_rng(0)
TRAINING = RNG.integers(0, 400, (200, 16)).astype(np.uint16)


@pytest.fixture
def planted() -> NDArray[np.uint16]:
    """A copy, one shifted by 3, a splice of two images, a copy but for one token, noise."""
    noise = RNG.integers(400, 512, (1, 16)).astype(np.uint16)
    shifted = np.concatenate([TRAINING[3, 3:], noise[0, :3]])
    splice = np.concatenate([TRAINING[1, :10], TRAINING[2, 10:]])
    touched = TRAINING[4].copy()
    touched[8] = 511
    return np.stack([TRAINING[0], shifted, splice, touched, noise[0]])


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    return index_of(tmp_path_factory.mktemp("planted"), TRAINING)


def test_planted_cases(planted: NDArray[np.uint16], index: Index) -> None:
    rows, distances = m.nearest(planted, TRAINING)
    assert distances[[0, 2, 3, 4]].tolist() == [0, 6, 1, 16]
    assert rows[[0, 2, 3]].tolist() == [0, 1, 4]
    assert distances[1] >= 13  # shifted: hardly a token stands where it stood
    assert Engine(index).longest_matches(planted).max(1).tolist() == [16, 13, 10, 8, 0]
    figures, _ = m.describe(planted, index, RNG)
    assert figures["exact_copies"].value == pytest.approx(1 / 5)
    assert figures["novel"].value == pytest.approx(1 / 5)  # the noise
    mine, known = (fsq_codes(tokens, (8, 8, 8)).astype(float) for tokens in (planted, TRAINING))
    apart = np.square(mine[:, None] - known).sum((2, 3))
    assert figures["nearest_in_codes"].value == pytest.approx(apart.min(1).mean())
    assert figures["novelty"][15] == pytest.approx(4 / 5)
    assert figures["novelty"][0] == pytest.approx((3 + 0 + 0 + 1 + 16) / 80)


@pytest.mark.parametrize("vocabulary", [2, 5, 65535])
def test_distances_agree_with_brute_force(vocabulary: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(m, "PAIRS", 15 * 4)  # four sequences at a time, the last one alone
    rng = np.random.default_rng(vocabulary)
    training = rng.integers(0, vocabulary, (15, 9)).astype(np.uint16)
    sequences = rng.integers(0, vocabulary, (25, 7)).astype(np.uint16)
    sequences[:5] = training[:5, 1:8]
    hamming = (sequences[:, None] != training[None, :, :7]).sum(2)
    found = m.nearest(sequences, training)
    assert np.array_equal(found, [hamming.argmin(1), hamming.min(1)])


@pytest.mark.parametrize(
    ("runs", "shift", "kind", "share"),
    [
        ([3, 3, 3], 0, "novel", 0),  # tokens that are shared by chance
        ([4], 0, "novel", 4 / 16),
        ([4, 4], 0, "mosaics", 8 / 16),  # exactly half
        ([5, 3], 0, "novel", 5 / 16),
        ([5, 4], 0, "mosaics", 9 / 16),
        ([8], 1, "shifted_copies", 8 / 16),
        ([7], 1, "novel", 7 / 16),
        ([7, 4], 1, "mosaics", 11 / 16),
        ([15], 0, "mosaics", 15 / 16),
        ([16], 0, "exact_copies", 1),
    ],
)
def test_runs_of_four_are_copied_and_half_an_image_is_much(
    index: Index, runs: list[int], shift: int, kind: str, share: float
) -> None:
    sequence = np.arange(400, 416)  # tokens of no training image
    place = 0
    for row, length in enumerate(runs):
        sequence[place : place + length] = TRAINING[row, place + shift : place + shift + length]
        place += length + 1
    figures, _ = m.describe(sequence[None].astype(np.uint16), index, RNG)
    assert [name for name in m.KINDS if figures[name].value] == [kind]
    assert figures[kind].value == 1
    assert figures["copied_share"].value == share


def fewest_pieces(sequence: list[int], training: list[list[int]]) -> int:
    """Shortest way through all splits."""
    spans = [(i, j) for j in range(len(training[0]) + 1) for i in range(j)]
    known = {tuple(row[i:j]) for row in training for i, j in spans}
    best = [0]
    for end in range(1, len(sequence) + 1):
        whole = [i for i in range(end) if i == end - 1 or tuple(sequence[i:end]) in known]
        best.append(1 + min(best[i] for i in whole))
    return best[-1]


def test_matches_in_place_and_pieces_agree_with_brute_force(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    training, sequences = (rng.integers(0, 3, (n, 9)).astype(np.uint16) for n in (6, 40))
    in_place = m.aligned_runs(sequences, training)
    equal = sequences[:, None] == training
    for start in range(9):
        runs = np.cumprod(equal[:, :, start:], axis=2).sum(2).max(1)
        assert in_place[:, start].tolist() == runs.tolist()
    everywhere = Engine(index_of(tmp_path, training)).longest_matches(sequences)
    fewest = [fewest_pieces(sequence, training.tolist()) for sequence in sequences.tolist()]
    assert m.pieces(everywhere).tolist() == fewest
    covered = np.zeros((40, 9), bool)
    for row, start in np.argwhere(everywhere >= 4):
        covered[row, start : start + everywhere[row, start]] = True
    assert m.copied(everywhere, 4) == pytest.approx(covered.mean(1))


def test_held_out_images_are_measured_as_the_generated_are(index: Index) -> None:
    held_out = RNG.integers(0, 512, (40, 16)).astype(np.uint16)
    copied = m.measure(TRAINING[:40], index, held_out, RNG)
    assert copied["generated"]["exact_copies"].value == 1
    assert copied["generated"][CLOSER.key].value == 1
    assert copied["held_out"]["exact_copies"].value == 0
    assert m.measure(TRAINING[:40], index, held_out[:0], RNG).keys() == {"generated"}
    mine, real = m.measure(held_out, index, held_out, RNG).values()
    assert mine["nearest_distance"].value == real["nearest_distance"].value
    for name in (CLOSER.key, CLOSER_IN_CODES.key):
        assert mine[name].value == pytest.approx(0.5)
        assert mine[name].p_value > 0.9
        assert copied["generated"][name].p_value < 1e-6
