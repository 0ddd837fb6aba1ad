"""Tokenize ImageNet's 1.28 million images, resumable, on any number of GPUs.

    .venv/bin/python tokenize_imagenet_large.py                               # one process, on one GPU or the CPU
    .venv/bin/torchrun --standalone --nproc-per-node=gpu tokenize_imagenet_large.py # one process for each GPU
    .venv/bin/torchrun --nnodes=4 --nproc-per-node=gpu --rdzv-backend=c10d --rdzv-endpoint=FIRST:29500 \\
        tokenize_imagenet_large.py

The large sibling of tokenize_fast.py: the same work and the same files, other defaults. Needs requirements-flextok.txt.
Process `r` of `n` takes the shards s with s % n == r. The processes exchange nothing but files, which several nodes
write to one shared folder, and a shard's bytes do not depend on n: a run can be stopped, or crash, and the same
command, or one with another number of processes, goes on from the finished shards. Images that cannot be read are
listed in bad.jsonl. The tokens take 0.7 GB; whether that is free is checked first.

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


@dataclass
class Config:
    dataset: OmitArgPrefixes[DatasetSpec] = DatasetSpec(
        "benjamin-paine/imagenet-1k-256x256"
    )  # or a local copy in any form
    codec: str = "EPFL-VILAB/flextok_d18_d28_dfn"  # NAME@REVISION pins a revision; the one used is recorded
    out: Path = Path("data/imagenet_tokens")
    batch_size: int = 64  # images a process; halve it when a GPU runs out of memory
    workers: int = -1  # loader processes for each process; -1: the cores of the machine, shared by its processes
    held_out_share: float = 0.1  # tokenized but never indexed: what every figure is compared with
    shard_size: int = 10_000  # images a shard, the most that a crash can cost a process


def main(config: Config) -> None:
    # Imported here, so that --help need not wait for torch.
    from imagegram.machine import Processes
    from imagegram.tokenizing import Options, tokenize_dataset

    processes = Processes.from_environment()
    tokenize_dataset(config.dataset, config.out, Options.of(config), processes.rank, processes.world_size)


if __name__ == "__main__":
    sys.exit(run_script(main, Config, __doc__))
