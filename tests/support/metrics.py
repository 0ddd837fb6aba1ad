"""`python -m imagegram.metrics`, for the tests."""

from typing import Any

import pytest

from imagegram.cli import run_script
from imagegram.metrics.__main__ import main
from imagegram.metrics.commands import Pictures, Predict, Tokens
from imagegram.metrics.intervals import Figure
from imagegram.metrics.registry import CLOSER, COHERENCE, EXACT_COPIES, Figures


def run(*words: Any) -> int:
    """The exit code of the command."""
    return run_script(main, Predict | Pictures | Tokens, None, list(map(str, words)))


def figures_of(copies: float, closer: float | None, coherence: float | None) -> Figures:
    """Figures of a sampler, of no width; None: not measured."""
    known = {EXACT_COPIES.key: copies, CLOSER.key: closer, COHERENCE.key: coherence}
    return {key: Figure(value, value, value) for key, value in known.items() if value is not None}


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """What was printed as an error, which must be one line, and the last."""
    said = capsys.readouterr().err
    (line,) = (line for line in said.splitlines() if line.startswith("error: "))
    assert said.rstrip().endswith(line)
    return line
