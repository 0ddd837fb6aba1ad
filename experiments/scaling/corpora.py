"""Corpora of the scaling study: training images of a data set, from which an index of their own is built."""

import contextlib
import hashlib
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imagegram.artifact import Artifact
from imagegram.cli import UserError
from imagegram.data.dataset import permutation
from imagegram.data.spec import DatasetSpec
from imagegram.index.build import build_index
from imagegram.index.folder import Index
from imagegram.options import Options
from imagegram.tokenizing import tokenize_dataset
from imagegram.tokens import TokenFolder

CORPORA = 3  # disjoint ones of a size, where there are images enough
SMALLEST = 100  # images, of a data set that is not unlimited


@dataclass(frozen=True)
class Data:
    """A tokenized data set: training images [n, L] in random order, since many data sets are sorted by class, and
    held-out images [m, L] in the order of the data set."""

    name: str
    codec: str
    folder: TokenFolder
    training: NDArray[np.uint16]
    held_out: NDArray[np.uint16]
    held_out_labels: NDArray[np.int32]

    def corpus(self, images: int, number: int) -> NDArray[np.uint16]:
        """Corpus `number` of `images` training images [images, L]. Those of a size are disjoint; number 0 of every size
        holds number 0 of every smaller one."""
        return self.training[number * images : (number + 1) * images]

    def digest(self, images: int, number: int) -> str:
        """A hash of the tokens of a corpus."""
        return hashlib.sha256(self.corpus(images, number).tobytes()).hexdigest()[:16]

    def corpora(self, images: int) -> int:
        """How many disjoint corpora of `images` there are."""
        return min(CORPORA, len(self.training) // images)


def load(dataset: DatasetSpec, out: Path, codec: str, name: str = "") -> Data:
    """Tokenize a data set into `out`/NAME/tokens, if that is not done, and read it; "": the last part of its name."""
    name = name or Path(dataset.name).name
    folder = tokenize_dataset(dataset, out / name / "tokens", Options(codec=codec))
    corpus = folder.load()
    training = corpus.tokens[~corpus.held_out]
    if dataset.name != "shapes":  # those are drawn at random
        training = training[permutation(len(training))]
    held_out = corpus.held_out
    return Data(name, codec, folder, training, corpus.tokens[held_out], corpus.labels[held_out])


def sizes(data: Data, wanted: tuple[int, ...]) -> list[int]:
    """The sizes of corpora: of the scenes those that are wanted, of other data all and quarters of it."""
    n = len(data.training)
    if data.name == "shapes":
        return [size for size in wanted if size <= n]
    if n < SMALLEST:
        raise UserError(f"{data.name} has {n} images to index: a study needs {SMALLEST}")
    return [size for i in range(5, -1, -1) if (size := n // 4**i) >= SMALLEST]


def open_index(data: Data, images: int, number: int, place: Path) -> Index:
    """The index of a corpus, built below `place` where that is not done; what the build prints goes to a log there.

    That of another corpus, from before the data set or the code changed, is replaced.
    """
    place.mkdir(parents=True, exist_ok=True)
    rows = data.corpus(images, number)
    manifest = replace(
        data.folder.manifest,
        dataset=DatasetSpec(f"{data.name}, corpus {number} of {images}"),
        fingerprint=data.digest(images, number),
        images=len(rows),
        available=len(rows),
        held_out_share=0.0,
        shard_size=max(len(rows), 1),
    )
    tokens = place / "tokens"
    if Artifact(tokens, "tokens").record() != manifest.to_json():
        shutil.rmtree(tokens, ignore_errors=True)
    folder = TokenFolder.create(tokens, manifest)
    for shard in folder.pending():
        folder.write(shard, rows, np.full(len(rows), -1), {}, 0.0)
    with (place / "log.txt").open("a") as log, contextlib.redirect_stdout(log):
        return build_index([folder.path], place / "index_input", place / "index")
