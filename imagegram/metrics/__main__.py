"""Measure anyone's pictures or tokens, or say from a folder of tokens what more images would
change.

python -m imagegram.metrics pictures samples/ --training train/ --held-out test/
python -m imagegram.metrics tokens samples.npy --training train.npy
python -m imagegram.metrics predict data/tokens
"""

import sys

from imagegram.cli import run_script
from imagegram.metrics.commands import Pictures, Predict, Tokens


def main(command: Predict | Pictures | Tokens) -> None:
    # Imported here, so that --help need not wait for SciPy and torch.
    if isinstance(command, Predict):
        from imagegram.metrics.extrapolate import predict

        predict(command.tokens, command.contexts, command.images)
        return
    from imagegram.report.measured import measure_pictures, measure_tokens

    if isinstance(command, Pictures):
        measure_pictures(command)
    else:
        measure_tokens(command)


if __name__ == "__main__":
    sys.exit(run_script(main, Predict | Pictures | Tokens, __doc__))
