"""What goes into an index: the images of token folders that are not held out."""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from imagegram.cli import UserError
from imagegram.tokens import TokenFolder


class IndexedImages:
    """The images of several token folders that are not held out, one folder after another.

    UserError where the folders hold different codecs' tokens, or a shard is missing or cut short.
    """

    def __init__(self, folders: Sequence[TokenFolder]):
        self.folders = folders
        self.tokens_per_image = folders[0].manifest.tokens_per_image
        self.shards = [
            (number, folder, s)
            for number, folder in enumerate(folders)
            for s in range(folder.shards)
        ]
        for folder in folders[1:]:
            for field in ("revision", "tokens_per_image", "vocab_size", "preprocessing"):
                here = getattr(folder.manifest, field)
                there = getattr(folders[0].manifest, field)
                elsewhere = field == "preprocessing" and "" in (here, there)  # tokens were made
                if here != there and not elsewhere:
                    said = f"{folder.path} has {field} {here!r}, {folders[0].path} has {there!r}"
                    raise UserError(f"{said}: an index holds tokens made in one way")
        for _, folder, shard in self.shards:
            folder.check_shard(shard)
        kept = [int((~folder.held_out(shard)).sum()) for _, folder, shard in self.shards]
        self.starts = np.concatenate([[0], np.cumsum(kept)])  # of every shard among the images
        if not self.starts[-1]:
            raise UserError("every image is held out: lower the held-out share and tokenize again")

    def __len__(self) -> int:
        return int(self.starts[-1])

    def _parts(self, images: range) -> Iterator[tuple[int, TokenFolder, int, slice]]:
        """The shards that hold some images, each with which of its indexed ones."""
        for (number, folder, shard), (start, end) in zip(
            self.shards, itertools.pairwise(self.starts), strict=True
        ):
            low = max(images.start, start)
            high = min(images.stop, end)
            if low < high:
                yield number, folder, shard, slice(low - start, high - start)

    def check(self, images: range) -> None:
        """Read the token shards of some images; UserError where one is not what was written."""
        for _, folder, shard, _ in self._parts(images):
            folder.check_shard(shard, hashes=True)

    def chunks(self, images: range) -> Iterator[tuple[NDArray[np.uint16], NDArray[np.int64]]]:
        """Some images by token shards: tokens [n, L]; number of folder, ordinal, label [n, 3]."""
        for number, folder, shard, part in self._parts(images):
            rows = np.flatnonzero(~folder.held_out(shard))[part]
            tokens, labels = folder.read(shard)
            origins = np.full(len(rows), number), folder.ordinals(shard)[rows], labels[rows]
            yield tokens[rows], np.stack(origins, 1).astype(np.int64)
