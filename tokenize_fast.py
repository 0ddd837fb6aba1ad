"""Tokenize a data set into a folder of uint16 token shards.

    .venv/bin/python tokenize_fast.py                        # the digits: 6 to 15 s
    .venv/bin/python tokenize_fast.py --dataset shapes --images 20000
    .venv/bin/python tokenize_fast.py --dataset emoji --out data/emoji   # by a codec of their own
    .venv/bin/python tokenize_fast.py --dataset cifar10 --out data/cifar10 \\
        --codec EPFL-VILAB/flextok_d18_d28_dfn

Any data set that fits one process; tokenize_imagenet_large.py has the defaults for ImageNet and
several GPUs. Reads nothing but the data set; writes data/tokens/ (the files are described in
imagegram/tokens.py), one shard at a time: the same command goes on where it was stopped.
Prints, after a progress bar with img/s,

    ---
    tokens: data/tokens
    images: 1797
    bad_images: 0
    seconds: 3.7
    images_per_second: 487.6
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from imagegram.cli import OmitArgPrefixes, run_script
from imagegram.data.spec import DatasetSpec
from imagegram.options import Options


@dataclass
class Config:
    dataset: OmitArgPrefixes[DatasetSpec] = DatasetSpec("digits")
    tokenizing: OmitArgPrefixes[Options] = Options()
    out: Path = Path("data/tokens")


def main(config: Config) -> None:
    # Imported here, so that --help need not wait for torch.
    from imagegram.tokenizing import tokenize_dataset

    tokenize_dataset(config.dataset, config.out, config.tokenizing)


if __name__ == "__main__":
    sys.exit(run_script(main, Config, __doc__))
