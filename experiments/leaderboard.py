"""The leaderboard of held-out bits: a row for a sampler on an index.

    python -m experiments.leaderboard --index data/demo/index --name digits
    python -m experiments.leaderboard --index data/demo/index --name digits --sampler smoothed

Of the sampler as fitted (temperature 1): held-out bits a token and the chance of an exact copy. As
it draws by default: the same, P(closer) in tokens and in codes of 1,000 sequences (0.5 is like real
images), and the coherence of some of them decoded (1 is like real images). The core-seconds of its
fit, where there is none yet, and of the 1,000 sequences. Adds the row to a CSV file, in place of an
older one, and prints the table in Markdown. A new sampler is a file in imagegram/samplers and a
line in its `__init__.py`; its row is the command above.
"""

import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from experiments.common import Corpus, add_rows, print_head, print_row, read_table
from imagegram.cli import run_script, summary
from imagegram.metrics.exact import exact_figures
from imagegram.metrics.intervals import Figure
from imagegram.metrics.registry import CLOSER, CLOSER_IN_CODES, COHERENCE, EXACT_COPY_PROBABILITY
from imagegram.samplers import Sampler, sampler_named

SEQUENCES = 1000


@dataclass
class Config:
    index: Path = Path("data/index")
    name: str = "digits"  # of the data, in the table
    sampler: str = "kernel"
    images: int = 512  # of the sequences, decoded for coherence
    out: Path = Path("docs/leaderboard.csv")


def text(figure: Figure | None, form: str) -> str:
    """A value, and its interval where it has one.

    >>> text(Figure(0.5, 0.25, 0.75), ".2f"), text(Figure.exactly(2e-7), ".0e"), text(None, ".2f")
    ('0.50 (0.25 to 0.75)', '2e-07', '')
    """
    if figure is None:
        return ""
    interval = "" if figure.exact else f" ({figure.low:{form}} to {figure.high:{form}})"
    return f"{figure.value:{form}}{interval}"


def measure(config: Config, corpus: Corpus, sampler: Sampler) -> dict[str, object]:
    """The figures of a row."""
    started = time.process_time()
    sampler.prepare(corpus.index)
    fit = time.process_time() - started

    started = time.process_time()
    rng = np.random.default_rng(0)
    drawn = sampler.sample(corpus.index, SEQUENCES, rng).tokens
    drawing = time.process_time() - started

    figures = corpus.measure(drawn, config.images, rng)["generated"]
    as_fitted = replace(sampler, temperature=1.0)
    exact = [
        exact_figures(corpus.index, each, corpus.held_out.tokens, np.random.default_rng(0))
        for each in (as_fitted, sampler)
    ]
    copies = EXACT_COPY_PROBABILITY.key
    commit = subprocess.check_output(["git", "rev-parse", "--short", "HEAD"], text=True)
    return {
        "training images": corpus.index.num_images,
        "held-out bits, as fitted": text(exact[0]["held_out_bits"], ".2f"),
        "P(exact copy), as fitted": f"{exact[0][copies].value:.1e}",
        "held-out bits, as drawn": text(exact[1]["held_out_bits"], ".2f"),
        "P(exact copy), as drawn": f"{exact[1][copies].value:.1e}",
        "P(closer), tokens": text(figures.get(CLOSER.key), ".2f"),
        "P(closer), codes": text(figures.get(CLOSER_IN_CODES.key), ".2f"),
        "coherence": text(figures.get(COHERENCE.key), ".2f"),
        "core-seconds: fit": f"{fit:.0f}",
        "core-seconds: 1,000 sequences": f"{drawing:.1f}",
        "commit": commit.strip(),
    }


def main(config: Config) -> None:
    row = {"data": config.name, "model": config.sampler}
    figures = measure(config, Corpus.open(config.index), sampler_named(config.sampler))
    table = read_table(config.out)
    if len(table):
        table = table[(table.data != config.name) | (table.model != config.sampler)]
    table = add_rows(config.out, table, [row | figures])
    print_head(*table)
    for cells in table.fillna("").to_numpy():
        print_row(*cells)
    summary(leaderboard=config.out)


if __name__ == "__main__":
    sys.exit(run_script(main, Config, __doc__))
