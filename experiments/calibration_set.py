"""Pictures whose true copy rate is known exactly, to try a measure of memorization on: a file and a
table.

    python -m experiments.calibration_set           # the digits: a minute or two
    python -m experiments.calibration_set --dataset shapes --images 4000 --name scenes

`ntd` and `aligned` are swept over their contexts: 13 sets, whose chance of an exact copy is known
from counts. Five more, `mixed-P`, are held-out images of which a share P was replaced by training
images: nothing but the copies can tell them from real ones. All pictures are decoded from tokens,
from one noise, so that a copy is one in pixels too.

OUT/NAME.npz: names [18]; truth [18], the chance of a copy; pictures uint8 [18, n, S, S] in grey;
training and held_out [N, S, S] and [M, S, S]; tokens uint16 [13, n, L] of the sets that samplers
drew. docs/calibration.csv: what every measure of `python -m imagegram.metrics pictures` says of
each set, in pixels. docs/calibration.md has a measure in ten lines.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

import imagegram as ig
from experiments.common import add_rows, has, read_table
from imagegram.cli import UserError, run_script, summary
from imagegram.codec.decoding import Decoder
from imagegram.data.duplicates import GREY, perceptual_hashes
from imagegram.files import atomic
from imagegram.generating import open_codec
from imagegram.index.folder import Index
from imagegram.metrics.counting import copy_figures
from imagegram.metrics.held_out import read_held_out
from imagegram.metrics.instrument import COPIES, differs
from imagegram.metrics.intervals import Figure, wilson
from imagegram.metrics.registry import SETS
from imagegram.metrics.sets import Space, measure_space, near_duplicates
from imagegram.samplers import Aligned, Ntd

POINTS: tuple[Ntd | Aligned, ...] = (
    *(Ntd(context=context) for context in range(1, 7)),
    *(Aligned(context=context, min_images=1) for context in range(7)),
)
SHARES = (0.01, 0.05, 0.1, 0.2, 0.5)  # of copies, in the mixed sets
# fewer than the codec's own: what counts is that copies are copies, not that they please
FLOW_STEPS, GUIDANCE = 4, 1.0
COLUMNS = ["data", "set", "truth", "measure", "value", "low", "high"]  # of the table
COLUMNS += ["held_out", "held_out_low", "held_out_high", "side"]
Pixels = NDArray[np.uint8]


@dataclass
class Config:
    dataset: str = "digits"
    images: int = 0  # of it; 0: all
    name: str = "digits"
    out: Path = Path("data/calibration")
    table: Path = Path("docs/calibration.csv")
    pictures: int = 0  # of each set; 0: half of the held-out images, and 256 at most
    seed: int = 0


def decode(index: Index, tokens: NDArray[np.uint16]) -> Pixels:
    """Grey pictures uint8 [n, S, S] of tokens [n, L], all from one noise."""
    decode = Decoder(open_codec(index), FLOW_STEPS, GUIDANCE)
    images = decode(tokens, np.zeros(len(tokens), np.int64)).numpy()
    return np.einsum("ncij,c->nij", images, GREY).round().astype(np.uint8)


def make(config: Config) -> dict[str, Any]:
    """All arrays of the file."""
    place = config.out / config.name
    tokens = ig.tokenize(config.dataset, place / "tokens", images=config.images)
    index = ig.build_index(tokens, place / "index")
    real = read_held_out(index).tokens
    n = config.pictures or min(256, len(real) // 2)
    if 2 * n > len(real):
        raise UserError(f"{len(real)} images are held out: --pictures is {len(real) // 2} at most")
    rng = np.random.default_rng(config.seed)
    real = real[rng.permutation(len(real))]
    names, truth, sets = [], [], []
    for sampler in POINTS:
        exact = copy_figures(index.tokens, [sampler.context], aligned=isinstance(sampler, Aligned))
        names.append(f"{sampler.name}-{sampler.context}")
        truth.append(float(np.exp(exact[sampler.context].log_copy)))
        sets.append(sampler.sample(index, n, rng).tokens)
    for share in SHARES:
        copies = index.tokens[rng.choice(index.num_images, n, replace=False)]
        names.append(f"mixed-{share:g}")
        truth.append(round(share * n) / n)
        sets.append(np.where((np.arange(n) < round(share * n))[:, None], copies, real[:n]))
    bar = tqdm(sets, desc=f"decoding {config.name}", unit="set")
    return {
        "names": np.array(names),
        "truth": np.array(truth),
        "pictures": np.stack([decode(index, rows) for rows in bar]),
        "training": decode(index, np.unique(index.tokens, axis=0)),
        "held_out": decode(index, real[: 2 * n]),
        "tokens": np.stack(sets[: len(POINTS)]),
    }


def measure(arrays: dict[str, Any], row: int, seed: int) -> dict[str, dict[str, Figure]]:
    """The figures of one set and of held-out images in pixels.

    Half of the held-out images are the reference; the others are the control, and what the mixed
    sets are made from.
    """
    n = arrays["pictures"].shape[1]
    pixels = {
        "generated": arrays["pictures"][row],
        "training": np.unique(arrays["training"], axis=0),
        "held_out": arrays["held_out"][:n],
        "reference": arrays["held_out"][n:],
    }
    vectors = {
        who: images.reshape(len(images), -1).astype(np.float32) / np.float32(255)
        for who, images in pixels.items()
    }
    found = measure_space(Space(**vectors), np.random.default_rng(seed)).figures
    colour = {who: images[:, None].repeat(3, 1) for who, images in pixels.items()}
    known = {who: (images, perceptual_hashes(images)) for who, images in colour.items()}
    for who in found:
        near = near_duplicates(*known[who], known["training"])
        found[who]["near_duplicates"] = wilson(int(near.sum()), n)
    return found


def seen(table: pd.DataFrame) -> dict[str, str]:
    """For every measure the smallest share of copies in a mixed set whose figure lies outside that
    of held-out ones."""
    mixed = table[table.set.str.startswith("mixed")]
    found = {}
    for metric in SETS:
        some = mixed[mixed.measure == metric.key].sort_values("truth")
        outside = (some.low > some.held_out_high) | (some.high < some.held_out_low)
        # From there on at every larger share too.
        always = outside[::-1].cumprod()[::-1].astype(bool)
        found[metric.key] = f"{some.truth[always].min():.3f}" if always.any() else "none"
    return found


def main(config: Config) -> None:
    arrays = make(config)
    path = config.out / f"{config.name}.npz"
    with atomic(path) as temporary, temporary.open("wb") as f:
        np.savez_compressed(f, **arrays)
    table = read_table(config.table)
    bar = tqdm(arrays["names"].tolist(), desc=f"measuring {config.name}", unit="set")
    for row, name in enumerate(bar):
        if has(table, data=config.name, set=name):
            continue
        figures = measure(arrays, row, config.seed)
        lines = []
        for metric in SETS:
            mine, real = (figures[who].get(metric.key) for who in ("generated", "held_out"))
            if mine and real:
                line = [config.name, name, arrays["truth"][row], metric.key]
                for figure in (mine, real):
                    line += [figure.value, figure.low, figure.high]
                lines.append([*line, differs(mine, real)])
        table = add_rows(config.table, table, pd.DataFrame(lines, columns=COLUMNS))
    here = table[table.data == config.name]
    summary(file=path, megabytes=path.stat().st_size / 1e6, table=config.table, **seen(here))
    print(
        f"(the smallest share of copies from which on a measure sees them; {', '.join(COPIES)} "
        "look at single images)"
    )


if __name__ == "__main__":
    sys.exit(run_script(main, Config, __doc__))
