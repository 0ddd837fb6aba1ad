"""Build the index of token folders, or prove that one is right.

    ./build_index.sh --tokens data/tokens --index data/index
    .venv/bin/python -m imagegram.index verify data/index    # 21 s for 1.28 million images
    .venv/bin/torchrun --nproc-per-node=4 -m imagegram.index build \\
        --shard-images 4000000                                   # docs/cluster.md

Process `r` of `n` (RANK and WORLD_SIZE, which torchrun sets) builds the shards s with s % n == r.
The processes share nothing but files, on one machine or on many with a shared folder, and a shard's
bytes do not depend on n: the same command, with any number of processes, goes on from the finished
shards.
"""

import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from imagegram.cli import UserError, run_script


@dataclass
class Build:
    """Build the index of token folders, or of arrays of tokens: NAME.npy becomes the token folder
    NAME."""

    tokens: tuple[Path, ...] = (Path("data/tokens"),)  # token folders, indexed one after another
    index_input: Path = Path("data/index_input")  # the flat corpus, input of the builders
    index: Annotated[Path, tyro.conf.arg(aliases=["--out"])] = Path("data/index")
    """the finished index"""
    builder: str = "auto"  # auto | tg_build_index | divsufsort
    levels: tuple[int, ...] = (8, 8, 8, 5, 5, 5)
    """FSQ levels of tokens given as .npy [images, tokens]; FlexTok's"""
    vocab_size: int = 0
    """of an .npy whose ids are no FSQ codes (TiTok: 4096); 0: the product of the levels"""
    shard_images: int = 0
    """images a shard; 0: all in one. The processes of torchrun share the shards. To build one takes
    10 bytes a token"""


@dataclass
class Verify:
    """Prove that an index is right."""

    index: tyro.conf.Positional[Path] = Path("data/index")


def folder_of(path: Path, command: Build) -> Path:
    """A token folder as it is; of an .npy of tokens the folder that is made beside it."""
    if path.suffix != ".npy":
        return path
    from imagegram.token_arrays import read_tokens, tokens_from

    vocab_size = command.vocab_size or math.prod(command.levels)
    folder = path.with_suffix("")
    tokens = read_tokens(path, vocab_size)
    tokens_from(tokens, folder, levels=command.levels, vocab_size=command.vocab_size)
    print(f"{folder}: the tokens of {path}, a tenth of them held out")
    return folder


def main(command: Build | Verify) -> None:
    # Imported here, so that --help need not wait for NumPy and torch.
    from imagegram.index.build import build_share
    from imagegram.index.folder import verify_index
    from imagegram.machine import Processes

    if isinstance(command, Verify):
        verify_index(command.index)
        return
    if not command.tokens:
        raise UserError("no token folders: name at least one with --tokens")
    if command.shard_images < 0:
        raise UserError("--shard-images must be at least 0 (all images in one shard)")
    for name in ("TOKENS", "INDEX", "INDEX_INPUT", "BUILDER", "SHARD_IMAGES"):
        if name in os.environ:
            print(f"{name} of the environment is not read: --{name.lower().replace('_', '-')}")
    processes = Processes.from_environment()
    build_share(
        [folder_of(path, command) for path in command.tokens],
        command.index_input,
        command.index,
        builder=command.builder,
        shard_images=command.shard_images,
        processes=processes,
    )


if __name__ == "__main__":
    sys.exit(run_script(main, Build | Verify, __doc__))
