"""Arrays of several files read as one, without a copy of them in memory."""

from collections.abc import Sequence
from types import EllipsisType
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray


def joined(parts: Sequence[NDArray[np.uint16]]) -> NDArray[np.uint16]:
    """`parts` as one: itself where there is one, else a `Joined`, which stands wherever an array is asked for."""
    return parts[0] if len(parts) == 1 else cast(NDArray[np.uint16], Joined(parts))


class Joined:
    """`parts`, uint16 [n, ...] each, one after another along their first axis. Only what is asked for is read.

    Indexed as an array is: by rows, or by rows and columns, each a slice, a whole number or an array of them; rows may
    be a mask. Where NumPy wants an array it takes this for one, and reads all of it.
    """

    def __init__(self, parts: Sequence[NDArray[np.uint16]]):
        self.parts = parts
        self.starts = np.cumsum([0, *(len(part) for part in parts)])  # the first row of every part, and the end
        self.dtype = np.dtype(np.uint16)
        self.shape = (int(self.starts[-1]), *parts[0].shape[1:])
        self.ndim = len(self.shape)
        self.size = int(np.prod(self.shape))

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.concatenate(self.parts).astype(dtype or self.dtype, copy=False)

    def __getitem__(self, key: Any) -> NDArray[np.uint16]:
        rows, columns = key if isinstance(key, tuple) else (key, ...)
        if not isinstance(rows, slice):
            return self._gather(np.asarray(rows), columns)
        first, stop, step = rows.indices(len(self))
        if step != 1:
            return self._gather(np.arange(first, stop, step), columns)
        here = [slice(max(0, first - start), max(0, stop - start)) for start in self.starts[:-1]]
        return np.concatenate([part[mine, columns] for part, mine in zip(self.parts, here, strict=True)])

    def _gather(self, rows: NDArray[Any], columns: Any) -> NDArray[np.uint16]:
        """The rows named by an array of any shape."""
        if rows.dtype == bool:
            rows = np.flatnonzero(rows)
        rows = np.where(rows < 0, rows + len(self), rows)
        if rows.size and not 0 <= rows.min() <= rows.max() < len(self):
            raise IndexError(f"rows {rows.min()} to {rows.max()} of {len(self)}")
        whole = isinstance(columns, slice | EllipsisType)  # the same columns of every row
        if not whole:
            rows, columns = np.broadcast_arrays(rows, columns)
        part_of = np.searchsorted(self.starts, rows, "right") - 1
        result = np.empty(rows.shape + (self.parts[0][:0, columns].shape[1:] if whole else ()), np.uint16)
        for number, part in enumerate(self.parts):
            mine = part_of == number
            result[mine] = part[rows[mine] - self.starts[number], columns if whole else columns[mine]]
        return result
