"""Processes that read and preprocess images ahead of the codec."""

import contextlib
import errno
import functools
import os
import re
import signal
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from imagegram.cli import UserError
from imagegram.data.dataset import ImageDataset
from imagegram.data.preprocess import preprocess
from imagegram.machine import STOPS, cores, die_with_parent, stops_wait

# Ordinal, pixels uint8 [3, S, S] or None, label, reason if bad. Arrays, not tensors: these would
# travel through shared memory, which a small /dev/shm does not hold, and whose helper threads
# complain when a run is stopped.
Item = tuple[int, NDArray[np.uint8] | None, int, str]


class _Preprocessed(Dataset[Item]):
    def __init__(self, source: ImageDataset, size: int, margin: int):
        self.source = source
        self.size = size
        self.margin = margin

    def __getitem__(self, i: int) -> Item:
        try:
            with warnings.catch_warnings():
                # of Pillow: one for each slightly broken EXIF, without its name
                warnings.simplefilter("ignore")
                image, label = self.source.read(i)
                return i, preprocess(image, self.size, self.margin).numpy(), label, ""
        except Exception as error:  # recorded with its reason by whoever reads the batch
            # Without the address in memory of what held the bytes: it says nothing, and differs
            # every time.
            what = re.sub(r" <\S+ object at \w+>", "", str(error))
            return i, None, -1, f"{type(error).__name__}: {what}"


class _Loader(DataLoader[Item]):
    def __iter__(self) -> Any:
        with stops_wait():  # until all workers are forked
            return super().__iter__()


def load_batches(
    source: ImageDataset, batches: list[list[int]], size: int, workers: int = -1, margin: int = 0
) -> DataLoader:
    """Read and preprocess the images of each batch of ordinals; yields lists of Items in the order
    asked for.

    `size` and `margin` are those of `preprocess`. `workers` processes read ahead (-1: one for each
    core, shared with the other processes of torchrun; 0: none).
    """
    if workers < 0:
        workers = max(1, cores() // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
    return _Loader(
        _Preprocessed(source, size, margin),
        # Killed without a word, its parent cannot end a worker, which would hold the terminal's
        # pipe for ever.
        worker_init_fn=functools.partial(
            _begin_worker, os.getpid(), {stop: signal.getsignal(stop) for stop in STOPS}
        ),
        batch_sampler=batches,
        collate_fn=list,
        num_workers=workers,
        multiprocessing_context="fork" if workers else None,
    )


def _begin_worker(parent: int, handlers: dict[signal.Signals, Any], worker: int) -> None:
    """Run first in loader process number `worker`."""
    for stop, handler in handlers.items():
        signal.signal(stop, handler)
    die_with_parent(parent)


@contextlib.contextmanager
def worker_errors_as_user_errors() -> Iterator[None]:
    """Turn the death of a loader's process, which PyTorch raises wherever its parent happens to be,
    into one line."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise UserError(
            f"a process that loads images died ({str(error).splitlines()[0]}), possibly out of "
            "memory: the same command goes on from the finished shards, with less memory where "
            "--workers is lower"
        ) from None
    # of a semaphore: files that cannot be written have a line of their own
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise UserError(
            "shared memory (/dev/shm) is full, which loader processes use: free some of it, or "
            "take --workers 0"
        ) from None
