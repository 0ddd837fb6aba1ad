"""Predict from a folder of tokens what more images would change, before an index is built.

python -m imagegram.metrics predict data/tokens
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from imagegram.cli import run_script


@dataclass
class Predict:
    """Entropies of the tokens, the exact chance of a copy for each context, and what it will be with more images.

    Any codec's tokens; shards that are still missing are left out. Writes TOKENS/prediction.json and .png.
    """

    tokens: tyro.conf.Positional[Path] = Path("data/tokens")
    contexts: int = 10  # tokens of context, at most
    images: int = 0  # so many, taken at random; 0: all


def main(command: Predict) -> None:
    # Imported here, so that --help need not wait for SciPy.
    from imagegram.metrics.extrapolate import predict

    predict(command.tokens, command.contexts, command.images)


if __name__ == "__main__":
    sys.exit(run_script(main, tyro.extras.subcommand_type_from_defaults({"predict": Predict()}), __doc__))
