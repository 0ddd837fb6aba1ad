"""The same bits are cut into tokens in several ways, and back."""

import numpy as np
import pytest

from experiments.entropy_cliff import BITS, COMPONENTS, SCHEMES, to_levels, to_tokens


@pytest.mark.parametrize("name", SCHEMES)
def test_tokens_hold_all_bits_of_an_image(name: str) -> None:
    scheme = SCHEMES[name]
    assert sum(scheme) == COMPONENTS * BITS
    levels = np.random.default_rng(0).integers(0, 2**BITS, (400, COMPONENTS))
    tokens = to_tokens(levels, scheme)
    assert tokens.max() < 512
    assert (to_levels(tokens, scheme) == levels).all()
    for position, size in enumerate(scheme[:8]):
        assert len(np.unique(tokens[:, position])) <= 2**size


def test_few_bits_are_spread_over_the_levels_of_a_digit() -> None:
    levels = np.array([[0] * COMPONENTS, [7] * COMPONENTS])
    first = to_tokens(levels, SCHEMES["slow"])[:, 0]
    assert first.tolist() == [2, 6]
    assert to_tokens(levels, SCHEMES["even"])[:, 0].tolist() == [0, 511]
