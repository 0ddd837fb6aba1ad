"""The scripts: called in the tests' own process, or as programs of their own."""

import os
import shlex
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import generate_images
import overnight_run
import tokenize_fast
from imagegram.cli import run_script

ROOT = Path(__file__).parents[2]


def run(script: Any, *words: str) -> int:
    """The exit code of a script, called with these words, which are split as a shell does."""
    arguments = [part for word in words for part in shlex.split(word)]
    renamed = getattr(script, "RENAMED", None)
    return run_script(script.main, script.Config, script.__doc__, arguments, renamed=renamed)


run_tokenize = partial(run, tokenize_fast)
run_generate = partial(run, generate_images)
run_overnight = partial(run, overnight_run)


def program(
    *words: object, cwd: Path = ROOT, start: object = sys.executable, **environment: str
) -> subprocess.CompletedProcess[str]:
    """What Python, or what `start` names, ends with and says; it imports this project."""
    found = os.environ | {"PYTHONPATH": str(ROOT), "PYTHON": sys.executable} | environment
    command = [str(word) for word in (start, *words)]
    return subprocess.run(command, cwd=cwd, env=found, capture_output=True, text=True)


def build(folder: Path, tokens: Path) -> subprocess.CompletedProcess[str]:
    """build_index.sh with everything below `folder`."""
    places = ["--tokens", tokens, "--index-input", folder / "input", "--index", folder / "index"]
    return program(*places, start=ROOT / "build_index.sh")


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """The error that a script ended with: a single line."""
    lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    return lines[0]
