"""The exact chance of a copy beside the copies that are counted in 10,000 samples: they must agree.

    python -m experiments.copies_counted --index data/demo/index

Prints a table in Markdown: a sampler, the chance that a drawn sequence equals a training image (the sum of the
probabilities of all of them), the share of copies among the samples with Wilson's 95 % interval, and whether the chance
lies inside. One interval in twenty misses the truth.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from imagegram.cli import run_script, summary
from imagegram.index.folder import Index
from imagegram.metrics.intervals import wilson
from imagegram.samplers import Aligned, Kernel, Ntd

POINTS = (
    Ntd(context=1),
    Ntd(context=2),
    Ntd(context=3),
    Ntd(context=4),
    Aligned(context=1, min_images=1),
    Aligned(context=2, min_images=1),
    Aligned(context=3, min_images=1),
    Kernel(step=0),
)


@dataclass
class Config:
    index: Path = Path("data/index")
    samples: int = 10_000
    seed: int = 0


def main(config: Config) -> None:
    index = Index.open(config.index)
    distinct = np.unique(index.tokens, axis=0)
    known = {row.tobytes() for row in distinct}
    inside = 0
    print("| sampler | exact | counted |  |\n| --- | --- | --- | --- |")
    for sampler in POINTS:
        exact = sampler.probabilities(index, distinct).prod(1).sum()
        drawn = sampler.sample(index, config.samples, np.random.default_rng(config.seed)).tokens
        copies = sum(row.tobytes() in known for row in drawn)
        share = wilson(copies, config.samples)
        agrees = share.includes(exact)
        inside += agrees
        counted = f"{share.value:.2%} [{share.low:.2%}, {share.high:.2%}]"
        print(f"| {sampler.describe()} | {exact:.2%} | {counted} | {'inside' if agrees else 'outside'} |", flush=True)
    summary(points=len(POINTS), inside=inside)


if __name__ == "__main__":
    sys.exit(run_script(main, Config, __doc__))
