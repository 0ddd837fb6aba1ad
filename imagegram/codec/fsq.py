"""The FSQ codes behind token ids (Mentzer et al., 2024, arXiv:2309.15505): where tokens are near
each other."""

import numpy as np
from numpy.typing import NDArray


def fsq_digits(tokens: NDArray[np.integer], levels: tuple[int, ...]) -> NDArray[np.int64]:
    """Token ids [...] -> their digits [..., D], each below its level: mixed radix, the first digit
    fastest.

    >>> fsq_digits(np.array([0, 7, 8, 63_999]), (8, 8, 8, 5, 5, 5)).tolist()
    [[0, 0, 0, 0, 0, 0], [7, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0], [7, 7, 7, 4, 4, 4]]
    """
    basis = np.cumprod([1, *levels[:-1]])
    return np.asarray(tokens, np.int64)[..., None] // basis % levels


def fsq_codes(tokens: NDArray[np.integer], levels: tuple[int, ...]) -> NDArray[np.float32]:
    """Token ids [...] -> FSQ codes [..., D] in [-1, 1].

    >>> fsq_codes(np.array([0, 4, 7]), (8,)).ravel().tolist()
    [-1.0, 0.0, 0.75]
    """
    half = np.array(levels) // 2
    return ((fsq_digits(tokens, levels) - half) / half).astype(np.float32)
