"""Tokenize ImageNet's 1.28 million images, resumable, on any number of GPUs.

    .venv/bin/python tokenize_imagenet_large.py         # one process, on one GPU or the CPU
    .venv/bin/torchrun --standalone --nproc-per-node=gpu \\
        tokenize_imagenet_large.py                      # one process for each GPU
    .venv/bin/torchrun --nnodes=4 --nproc-per-node=gpu --rdzv-backend=c10d \\
        --rdzv-endpoint=FIRST:29500 tokenize_imagenet_large.py

The large sibling of tokenize_fast.py: the same work and the same files, other defaults.
--dataset takes a local copy of ImageNet as well, in any form that tokenize_fast.py takes. Needs
requirements-flextok.txt. Process `r` of `n` takes the shards s with s % n == r. The processes
exchange nothing but files, which several nodes write to one shared folder, and a shard's bytes do
not depend on n: a run can be stopped, or crash, and the same command, or one with another number of
processes, goes on from the finished shards. Images that cannot be read are listed in bad.jsonl. The
tokens take 0.7 GB; whether that is free is checked first.

The first process shows one line for all of them, images, img/s and the time left, and then prints

    ---
    tokens: data/imagenet_tokens
    images: 1281167
    bad_images: 0
    seconds: ...
    images_per_second: ...

Not measured on a GPU yet; benchmarks/bench_flextok.py measures.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from imagegram.cli import OmitArgPrefixes, run_script
from imagegram.data.spec import DatasetSpec
from imagegram.options import Options


@dataclass
class Config:
    dataset: OmitArgPrefixes[DatasetSpec] = DatasetSpec("benjamin-paine/imagenet-1k-256x256")
    tokenizing: OmitArgPrefixes[Options] = Options(
        codec="EPFL-VILAB/flextok_d18_d28_dfn", batch_size=64
    )
    out: Path = Path("data/imagenet_tokens")


def main(config: Config) -> None:
    # Imported here, so that --help need not wait for torch.
    from imagegram.machine import Processes
    from imagegram.tokenizing import tokenize_dataset

    tokenize_dataset(config.dataset, config.out, config.tokenizing, Processes.from_environment())


if __name__ == "__main__":
    sys.exit(run_script(main, Config, __doc__))
