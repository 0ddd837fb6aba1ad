"""What is said of a single picture agrees with its tokens, written out."""

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from imagegram.codec.fsq import fsq_codes
from imagegram.index.folder import Index
from imagegram.metrics.provenance import copied_runs, describe_pictures, steps_away, unigram_bits
from imagegram.samplers import Aligned, Samples
from tests.support.corpora import index_of

LEVELS = (8, 8, 8)
TRAINING = np.random.default_rng(0).integers(0, 512, (40, 8)).astype(np.uint16)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    return index_of(tmp_path_factory.mktemp("provenance"), TRAINING)


def test_steps_are_levels_of_all_digits_and_none_for_a_prompt(index: Index) -> None:
    tokens = np.array([[3 + 8 * 2 + 64 * 5, 7, 9]], np.uint16)
    sources = np.array([[[4, 1], [-1, -1], [5, 2]]])
    near, far = int(TRAINING[4, 1]), int(TRAINING[5, 2])
    steps = abs(3 - near % 8) + abs(2 - near // 8 % 8) + abs(5 - near // 64)
    more = abs(1 - far % 8) + abs(1 - far // 8 % 8) + far // 64
    assert steps_away(index, tokens, sources).tolist() == [[steps, 0, more]]


def test_without_codes_a_step_is_another_token(tmp_path: Path) -> None:
    index = index_of(tmp_path, TRAINING, vocab_size=1000)
    tokens = np.array([[TRAINING[0, 0], TRAINING[0, 1] + 1]], np.uint16)
    assert steps_away(index, tokens, np.array([[[0, 0], [0, 1]]])).tolist() == [[0, 1]]


def test_surprise_is_the_share_of_images_with_the_token_there(index: Index) -> None:
    tokens = np.concatenate([TRAINING[:3], np.full((1, 8), 511, np.uint16)])
    # what stands nowhere counts as once
    shares = (TRAINING[None] == tokens[:, None]).sum(1).clip(1) / 40
    assert unigram_bits(index, tokens) == pytest.approx(-np.log2(shares))


@pytest.mark.parametrize("seed", range(8))
def test_runs_are_those_found_one_by_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    k = 60
    goes_on = rng.random(k) < 0.85
    sources = np.zeros((k, 2), int)
    for i in range(k):
        jump = rng.integers([-1, 0], [3, 9])
        sources[i] = [sources[i - 1, 0], sources[i - 1, 1] + 1] if i and goes_on[i] else jump
    steps = (rng.random(k) < 0.05).astype(int)
    surprise = rng.random(k)

    def copied(i: int) -> bool:
        return bool(sources[i, 0] >= 0 and steps[i] == 0)

    def joined(i: int) -> bool:
        return copied(i - 1) and copied(i) and bool((sources[i] == sources[i - 1] + [0, 1]).all())

    wanted = []
    for first in range(k):
        if copied(first) and not (first and joined(first)):
            end = first + 1
            while end < k and joined(end):
                end += 1
            if end - first >= 4:
                wanted.append([first, end - first, round(float(surprise[first:end].sum()), 1)])
    assert wanted
    assert copied_runs(sources, steps, surprise) == sorted(wanted, key=lambda run: -run[2])


def test_pictures_are_described_by_their_tokens(index: Index) -> None:
    touched = TRAINING[6].copy()
    touched[0] ^= 1  # one level of the first digit
    tokens = np.stack([TRAINING[3], touched])
    sources = np.stack([np.repeat([3, 6], 8).reshape(2, 8), np.tile(np.arange(8), (2, 1))], 2)
    copy, near = describe_pictures(index, tokens, Samples(tokens, sources), Aligned(context=0))
    keys = ("kind", "differs", "longest_run", "same")
    assert [copy[key] for key in keys] == ["exact_copies", 0, 8, "1" * 8]
    assert [near[key] for key in keys] == ["mosaics", 1, 7, "0" + "1" * 7]
    assert copy["nearest"] == copy["nearest_in_codes"] == index.images[3, :2].tolist()
    assert near["nearest"] == near["nearest_in_codes"] == index.images[6, :2].tolist()
    mine, known = (fsq_codes(tokens, LEVELS).astype(float) for tokens in (touched[None], TRAINING))
    first, second = np.sort(np.sqrt(np.square(mine - known).sum((1, 2))))[:2]
    assert (copy["gap_ratio"], near["gap_ratio"]) == (0, round(first / second, 3))
    assert near["steps"] == [1, *[0] * 7]
    bits = unigram_bits(index, tokens)[0].sum()
    assert copy["runs"] == [[0, 8, pytest.approx(bits, abs=0.06)]]
    assert [run[:2] for run in near["runs"]] == [[1, 7]]
    assert copy["log2_probability"] == pytest.approx(-bits, abs=0.06)
    assert (near["log2_probability"] is None) == (touched[0] not in TRAINING[:, 0])
    reasons = np.full((2, 8, 2), -1)
    reasons[1, 3:5] = [[2, 0], [1, -1]]
    sampler = {"reasons": lambda *asked: reasons, "probabilities": lambda *asked: np.ones((2, 8))}
    moves = SimpleNamespace(**sampler)
    moved = describe_pictures(index, tokens, Samples(tokens, sources), cast("Aligned", moves))
    assert [fact["because"] for fact in moved] == [[[]] * 8, [[], [], [], [2, 0], [1], [], [], []]]
    assert not {"steps", "runs", "log2_probability"} & set(describe_pictures(index, tokens)[0])
