"""Processes that read and preprocess images ahead of the codec."""

import contextlib
import errno
import os
import re
import signal
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
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
AT_ONCE = 256  # images that a worker hands over together, where nobody says how many


@dataclass
class _Preprocessed(Dataset[Item]):
    source: ImageDataset
    size: int
    margin: int

    def __getitem__(self, i: int) -> Item:
        try:
            with warnings.catch_warnings():
                # of Pillow: one for each slightly broken EXIF, without its name
                warnings.simplefilter("ignore")
                image, label = self.source.read(i)
                return i, preprocess(image, self.size, self.margin).numpy(), label, ""
        except Exception as error:  # recorded with its reason by whoever reads the batch
            # Without the address in memory of what held the bytes, which differs every time.
            what = re.sub(r" <\S+ object at \w+>", "", str(error))
            return i, None, -1, f"{type(error).__name__}: {what}"


class _Loader(DataLoader[Item]):
    def __iter__(self) -> Any:
        with stops_wait():  # until all workers are forked
            return super().__iter__()


def load_batches(
    source: ImageDataset, batches: list[list[int]], size: int, workers: int = -1, margin: int = 0
) -> DataLoader:
    """Read and preprocess the images of each batch of ordinals; yields lists of Items in order.

    `size` and `margin` are those of `preprocess`. `workers` processes read ahead (-1: one for each
    core, shared with the other processes of torchrun; 0: none).
    """
    if workers < 0:
        workers = max(1, cores() // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
    parent, handlers = os.getpid(), {stop: signal.getsignal(stop) for stop in STOPS}

    def begin(worker: int) -> None:
        # Without a parent that could end it, a worker would hold the terminal's pipe for ever.
        for stop, handler in handlers.items():
            signal.signal(stop, handler)
        die_with_parent(parent)

    return _Loader(
        _Preprocessed(source, size, margin),
        worker_init_fn=begin,
        batch_sampler=batches,
        collate_fn=list,
        num_workers=workers,
        multiprocessing_context="fork" if workers else None,
    )


def load_images(
    source: ImageDataset, ordinals: NDArray[np.int64], size: int, workers: int = -1
) -> Iterator[Item]:
    """The same of all `ordinals`, Item by Item."""
    batches = [ordinals[i : i + AT_ONCE].tolist() for i in range(0, len(ordinals), AT_ONCE)]
    for items in load_batches(source, batches, size, workers):
        yield from items


@contextlib.contextmanager
def worker_errors_as_user_errors() -> Iterator[None]:
    """One line for the death of a loader's process, which PyTorch raises wherever its parent is."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        died = f"a process that loads images died ({str(error).splitlines()[0]})"
        raise UserError(
            f"{died}, possibly out of memory: the same command goes on from the finished shards, "
            "with less memory where --workers is lower"
        ) from None
    # of a semaphore: files that cannot be written have a line of their own
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        full = "shared memory (/dev/shm) is full, which loader processes use"
        raise UserError(f"{full}: free some of it, or take --workers 0") from None
