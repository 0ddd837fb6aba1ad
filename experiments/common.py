"""What the experiments share: an index with its held-out images, tables that the same command
completes, plots."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Plot
from numpy.typing import NDArray

from imagegram.cli import UserError
from imagegram.codec.decoding import Decoder
from imagegram.files import atomic
from imagegram.generating import open_codec
from imagegram.index.build import build_index
from imagegram.index.folder import Index
from imagegram.metrics import copying
from imagegram.metrics.coherence import open_classifiers
from imagegram.metrics.held_out import HeldOut, read_held_out
from imagegram.token_arrays import tokens_from


@dataclass(frozen=True)
class Corpus:
    """An index and the images that it holds out, of which there are some."""

    index: Index
    held_out: HeldOut
    codec_of: Index | None = None  # whose codec decodes; None: the index's own

    @classmethod
    def open(cls, path: Path) -> "Corpus":
        """Open an index; UserError where nothing is held out."""
        index = Index.open(path)
        held_out = read_held_out(index)
        if not len(held_out.tokens):
            raise UserError(f"{path} holds out no images: there is nothing to compare with")
        return cls(index, held_out)

    @classmethod
    def of_training_images(cls, path: Path, folder: Path) -> "Corpus":
        """The indexed images alone: nine tenths of them in an index below `folder`, the others held
        out of it."""
        whole = Index.open(path)
        tokens = tokens_from(whole.tokens, folder / "tokens", levels=whole.levels)
        index = build_index([tokens.path], folder / "input", folder / "index")
        return cls(index, read_held_out(index), whole)

    def measure(
        self, tokens: NDArray[np.uint16], images: int, rng: np.random.Generator
    ) -> dict[str, dict[str, Any]]:
        """Figures of sequences [n, L], of the first `images` of them decoded, and of held-out
        images."""
        figures = copying.measure(tokens, self.index, self.held_out.tokens, rng)
        if not images:
            return figures
        codec = open_codec(self.codec_of or self.index)
        length = self.index.tokens_per_image
        if classifiers := open_classifiers(self.index, self.held_out, codec, length):
            for who, more in classifiers.measure(Decoder(codec)(tokens[:images]), rng).items():
                figures[who] |= more
        return figures


def read_table(path: Path) -> pd.DataFrame:
    """A CSV file; an empty table where there is none."""
    return pd.read_csv(path) if path.exists() else pd.DataFrame()


def add_rows(path: Path, table: pd.DataFrame, rows: Any) -> pd.DataFrame:
    """Write a table with more rows as a CSV file, numbers with four digits, and return it."""
    whole = pd.concat([table, pd.DataFrame(rows)])
    with atomic(path) as temporary:
        whole.to_csv(temporary, index=False, float_format="%.4g")
    return whole


def has(table: pd.DataFrame, **point: Any) -> bool:
    """Whether a row has these values.

    >>> table = pd.DataFrame({"data": ["digits"], "step": [1.0]})
    >>> has(table, data="digits", step=1), has(pd.DataFrame(), step=1)
    (True, False)
    """
    return len(table) > 0 and bool((table[list(point)] == list(point.values())).all(axis=1).any())


def print_row(*cells: object) -> None:
    """Print a row of a table in Markdown."""
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def print_head(*titles: object) -> None:
    print_row(*titles)
    print_row(*["---"] * len(titles))


def save_plot(plot: Plot, path: Path) -> None:
    """Write a plot as a PNG file."""
    with atomic(path) as temporary:
        plot.savefig(temporary, dpi=110, format="png")
