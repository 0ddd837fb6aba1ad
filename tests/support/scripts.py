"""The scripts: called in the tests' own process, or as programs of their own."""

import contextlib
import io
import os
import shlex
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import generate_images
import overnight_run
import tokenize_fast
from imagegram.cli import run_script

ROOT = Path(__file__).parents[2]


def _ended(script: Any, words: tuple[str, ...]) -> tuple[int, str, str]:
    """Its exit code, what it printed, and its errors; words are split as a shell does."""
    arguments = [part for word in words for part in shlex.split(word)]
    renamed = getattr(script, "RENAMED", None)
    out, errors = io.StringIO(), io.StringIO()
    code: Any = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        try:
            code = run_script(
                script.main, script.Config, script.__doc__, arguments, renamed=renamed
            )
        except SystemExit as ended:  # as of --help
            code = ended.code
    return code, out.getvalue(), errors.getvalue()


def run(script: Any, *words: str, ends: int = 0) -> str:
    """What a script says on this command line, errors last; `ends`: its exit code."""
    code, out, errors = _ended(script, words)
    assert code == ends, out + errors
    return out + errors


def refused(script: Any, *words: str) -> str:
    """The error that a script ends with on this command line: a single line."""
    code, _, errors = _ended(script, words)
    (line,) = (line for line in errors.splitlines() if line.strip())
    assert (code, line[:7]) == (1, "error: ")
    return line


run_tokenize = partial(run, tokenize_fast)
run_generate = partial(run, generate_images)
run_overnight = partial(run, overnight_run)


def program(
    *words: object,
    cwd: Path = ROOT,
    start: object = sys.executable,
    ends: int = 0,
    **environment: str,
) -> subprocess.CompletedProcess[str]:
    """What Python, or what `start` names, says on this command line; it imports this project."""
    found = os.environ | {"PYTHONPATH": str(ROOT), "PYTHON": sys.executable} | environment
    command = [str(word) for word in (start, *words)]
    done = subprocess.run(command, cwd=cwd, env=found, capture_output=True, text=True)
    assert done.returncode == ends, done.stdout + done.stderr
    return done


def build(folder: Path, tokens: Path, ends: int = 0) -> subprocess.CompletedProcess[str]:
    """build_index.sh with everything below `folder`."""
    places = ["--tokens", tokens, "--index-input", folder / "input", "--index", folder / "index"]
    return program(*places, start=ROOT / "build_index.sh", ends=ends)
