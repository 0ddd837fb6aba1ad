"""The FSQ codes behind token ids (Mentzer et al., 2024, arXiv:2309.15505): where tokens are near each other."""

import numpy as np
from numpy.typing import NDArray


def fsq_codes(tokens: NDArray[np.integer], levels: tuple[int, ...]) -> NDArray[np.float32]:
    """Token ids [...] -> FSQ codes [..., D] in [-1, 1]: mixed-radix digits, the first dimension fastest."""
    basis = np.cumprod([1, *levels[:-1]])
    digits = np.asarray(tokens)[..., None] // basis % levels
    return ((digits - np.array(levels) // 2) / (np.array(levels) // 2)).astype(np.float32)
