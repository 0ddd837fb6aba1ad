"""A thousandth of 100 million images for real: tokens in an index of 25 shards, and sequences drawn from it.

    python -m benchmarks.bench_cluster      # 100,000 images of 256 tokens; docs/cluster.md has the calculation
    python -m benchmarks.bench_cluster --kernel-images 100000  # the kernel as well: a long fit

The tokens are those of a random linear encoder (corpora.py): FlexTok's weights are not to be had everywhere. Prints
a `---` block with the numbers that docs/cluster.md multiplies.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.bench_sampling import memory
from benchmarks.corpora import LENGTH, random_codes
from imagegram.cli import run_script, summary
from imagegram.index.folder import verify_index
from imagegram.samplers import Aligned, Kernel, Ntd, Sampler, Smoothed

SAMPLERS: dict[str, tuple[Sampler, int]] = {
    "ntd": (Ntd(context=3), 10_000),
    "ntd, few": (Ntd(context=3), 100),
    "aligned": (Aligned(context=2, min_images=2), 10_000),
    "smoothed": (Smoothed(context=2), 500),
}


@dataclass
class Config:
    images: int = 100_000
    shards: int = 25
    kernel_images: int = 0  # of an index of its own, that the kernel is fitted to; 0: none
    kernel_sequences: int = 256


def timed(make: Callable[..., object], *arguments: object) -> float:
    """The core-seconds that a call takes."""
    started = time.process_time()
    make(*arguments)
    return time.process_time() - started


def main(config: Config) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        index = random_codes(folder, config.images, shard_images=-(-config.images // config.shards))
        proof = timed(verify_index, index.path)
        size = sum(file.stat().st_size for file in index.path.iterdir())
        found: dict[str, object] = {
            "shards": len(index.shards),
            "index_seconds": index.info["seconds"] + index.info["verify_seconds"],
            "proof_core_seconds": proof,
            "index_bytes_a_token": size / (config.images * (LENGTH + 1)),
            "distinct_first_tokens": len(np.unique(index.tokens[:, 0])),
        }
        for name, (sampler, n) in SAMPLERS.items():
            seconds = timed(sampler.sample, index, n, np.random.default_rng(0))
            found[f"{name}_sequences_a_core_second"] = n / seconds
            found[f"{name}_megabytes"] = memory(partial(sampler.sample, index, 8))
        if config.kernel_images:
            part = random_codes(folder / "part", config.kernel_images)
            found["kernel_images"] = config.kernel_images
            found["kernel_fit_core_seconds"] = timed(Kernel().prepare, part)
            n = config.kernel_sequences
            seconds = timed(Kernel().sample, part, n, np.random.default_rng(0))
            found["kernel_sequences_a_core_second"] = n / seconds
        summary(**found)


if __name__ == "__main__":
    sys.exit(run_script(main, Config, __doc__))
