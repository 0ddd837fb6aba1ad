"""Tokens whose codebook grows along the sequence, with the same bits an image: do n-grams stop copying?

    python -m experiments.entropy_cliff

Principal components of the digits in eight levels each are 144 bits an image, which are cut into tokens in three ways
(SCHEMES). For each: where an image is known from its first tokens, P(exact copy) of `ntd`, the pictures that it draws,
and the kernel's bits of held-out images. Written to docs/entropy_cliff.csv; docs/entropy_cliff.md has the predictions
and what came out. A few minutes on one core.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

import imagegram as ig
from experiments.common import write_table
from imagegram.cli import run_script, summary
from imagegram.data.dataset import held_out
from imagegram.index.folder import Index
from imagegram.metrics.counting import copy_figures, gram_entropies
from imagegram.metrics.exact import exact_figures
from imagegram.metrics.extrapolate import GRAMS, cliff, finite
from imagegram.metrics.held_out import read_held_out
from imagegram.metrics.sets import Space, measure_space
from imagegram.samplers import Kernel, Ntd

COMPONENTS, BITS = 48, 3  # of an image, and of each
SCHEMES = {
    "even": [9] * 16,
    "grown": [1, 2, 3, 3, 6, 6, 6] + [9] * 13,
    "slow": [1] * 12 + [2] * 12 + [3] * 12 + [6] * 6 + [9] * 4,
}
CONTEXTS = (2, 3, 5, 10, 20, 30)
DRAWN = (2, 3, 10)  # tokens of context of what is drawn; 2 and 3 were added after the first run
SPREAD = 2.5  # standard deviations of a component that its levels reach
SHOWN = ("f_mem", "closer_than_held_out", "precision", "recall", "fd", "rke")
Pixels = NDArray[np.float64]
Tokens = NDArray[np.uint16]


@dataclass
class Config:
    out: Path = Path("data/entropy_cliff")
    table: Path = Path("docs/entropy_cliff.csv")
    seed: int = 0


class Codes:
    """Digits as levels of principal components, and back."""

    def __init__(self, training: Pixels):
        self.pca = PCA(COMPONENTS, random_state=0).fit(training)
        self.reach = SPREAD * np.sqrt(self.pca.explained_variance_)

    def levels(self, images: Pixels) -> NDArray[np.int64]:
        """Images [n, 64] -> levels 0 to 7 of each component, [n, COMPONENTS]."""
        scaled = (self.pca.transform(images) / self.reach + 1) / 2
        return np.floor(scaled * 2**BITS).clip(0, 2**BITS - 1).astype(np.int64)

    def images(self, levels: NDArray[np.int64]) -> Pixels:
        """Levels -> images [n, 64]."""
        scaled = (levels + 0.5) / 2**BITS * 2 - 1
        return self.pca.inverse_transform(scaled * self.reach).clip(0, 1)


def to_tokens(levels: NDArray[np.int64], scheme: list[int]) -> Tokens:
    """The bits of all levels [n, COMPONENTS], the highest of each first, cut into tokens [n, len(scheme)].

    A token is up to three digits of eight levels, as the kernel reads them; fewer bits than three are spread over the
    eight levels of a digit, so that what differs is far apart.
    """
    bits = (levels[..., None] >> np.arange(BITS)[::-1] & 1).reshape(len(levels), -1)
    tokens = np.zeros((len(levels), len(scheme)), np.int64)
    start = 0
    for position, size in enumerate(scheme):
        for digit, first in enumerate(range(0, size, BITS)):
            some = bits[:, start + first : start + min(size, first + BITS)]
            width = some.shape[1]
            value = some @ (1 << np.arange(width)[::-1])
            spread = (2 * value + 1) << (BITS - width) >> 1  # the middle of its part of the eight levels
            tokens[:, position] += spread << (BITS * digit)
        start += size
    return tokens.astype(np.uint16)


def to_levels(tokens: Tokens, scheme: list[int]) -> NDArray[np.int64]:
    """What `to_tokens` was given."""
    bits = []
    for position, size in enumerate(scheme):
        for digit, first in enumerate(range(0, size, BITS)):
            width = min(size, first + BITS) - first
            value = (tokens[:, position].astype(np.int64) >> (BITS * digit) & 7) >> (BITS - width)
            bits.append(value[:, None] >> np.arange(width)[::-1] & 1)
    grouped = np.concatenate(bits, 1).reshape(len(tokens), COMPONENTS, BITS)
    return grouped @ (1 << np.arange(BITS)[::-1])


def copying_rows(name: str, index: Index) -> list[dict[str, Any]]:
    """Where images are known from their first tokens, and P(exact copy) of `ntd` for every context, exactly."""
    tokens = np.ascontiguousarray(index.tokens)
    grams = {n: finite(bits) for n, bits in gram_entropies(tokens, GRAMS).items()}
    found = cliff(tokens, index.vocab_size, grams)
    rows = [{"tokens": name, "what": "settled_from", "value": found["settled_from"]}]
    contexts = [context for context in CONTEXTS if context <= tokens.shape[1]]
    for context, figures in copy_figures(tokens, contexts, aligned=False).items():
        rows.append({"tokens": name, "what": f"p_copy_ntd_{context}", "value": float(np.exp(figures.log_copy))})
    return rows


def picture_rows(name: str, index: Index, real: Tokens, codes: Codes, seed: int) -> list[dict[str, Any]]:
    """What `ntd` draws, in pixels, and the same figures of held-out images."""
    n = len(real) // 2
    sets = {"held_out": real[:n], "reference": real[n : 2 * n], "training": np.unique(index.tokens, axis=0)}
    scheme = SCHEMES[name]
    pictures = {who: codes.images(to_levels(rows, scheme)).astype(np.float32) for who, rows in sets.items()}
    rows = []
    for context in DRAWN:
        rng = np.random.default_rng(seed)
        drawn = Ntd(context=context).sample(index, n, rng).tokens
        generated = codes.images(to_levels(drawn, scheme)).astype(np.float32)
        figures = measure_space(Space(generated=generated, **pictures), rng).figures
        shown = {f"ntd_{context}": figures["generated"]}
        if context == DRAWN[-1]:
            shown["held_out"] = figures["held_out"]
        for who, found in shown.items():
            for key in SHOWN:
                row = {"tokens": name, "what": f"{key}_{who}", "value": found[key].value}
                rows.append(row | {"low": found[key].low, "high": found[key].high})
    return rows


def main(config: Config) -> None:
    digits = load_digits().data / 16
    rows: list[dict[str, Any]] = []
    for name, scheme in SCHEMES.items():
        codes = Codes(digits[~held_out(np.arange(len(digits)), 0.1)])  # as tokens_from holds them out
        tokens = to_tokens(codes.levels(digits), scheme)
        folder = ig.tokens_from(tokens, config.out / f"{name}_tokens", levels=(8, 8, 8))
        index = ig.build_index(folder, config.out / f"{name}_index")
        real = read_held_out(index).tokens
        rows += copying_rows(name, index)
        rows += picture_rows(name, index, real, codes, config.seed)
        kernel = exact_figures(index, Kernel(temperature=1.0), real, np.random.default_rng(0))
        for key, times in (("held_out_bits", len(scheme)), ("exact_copy_probability", 1)):
            figure = kernel[key].scaled(times)
            row = {"tokens": name, "what": f"kernel_{key}{'_an_image' * (times > 1)}", "value": figure.value}
            rows.append(row | {"low": figure.low, "high": figure.high})
        table = write_table(config.table, pd.DataFrame(rows))
    summary(table=config.table)
    print(table.pivot_table(index="what", columns="tokens", values="value", sort=False).to_string())


if __name__ == "__main__":
    sys.exit(run_script(main, Config, __doc__))
