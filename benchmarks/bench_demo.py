"""The demo by stage: seconds and core-seconds of a whole night, run as its user runs it.

    python -m benchmarks.bench_demo                  # the digits: about two minutes on two cores
    python -m benchmarks.bench_demo --images 500     # fewer of them

Starts overnight_run.py on an empty folder, reads the lines that it prints, and looks at its processor time, that of
its finished children included, where a stage begins. Prints a table in Markdown.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from imagegram.cli import UserError, run_script, summary

SCRIPT = Path(__file__).parent.parent / "overnight_run.py"
STAGES = (  # the first words of a stage, and what it is called
    (r"1\. Tokenize", "tokenize"),
    (r"2\. Build", "index"),
    (r"3\. Generate", "reconstruct held-out images"),
    (r"sampler \d+ of \d+, ([^:]+):", "{}"),
    (r".*/held-out-seed0: generated", "fit the kernel"),
    (r"training the classifiers of", "train the classifiers of coherence"),
)


@dataclass
class Config:
    images: int = 0  # of the digits; 0: all


def core_seconds(process: int) -> float:
    """User and system time of a process and of its children that have ended."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def stage_of(line: str) -> str | None:
    """The stage that begins with a line of the night."""
    for pattern, name in STAGES:
        if found := re.match(pattern, line):
            return name.format(*found.groups())
    return None


def run_night(images: int, out: Path) -> list[tuple[str, float, float]]:
    """Run a night: every stage, when it began, in seconds of the clock and of the processor; the last is its end."""
    command = [sys.executable, "-u", str(SCRIPT), "--images", str(images), "--out", str(out)]
    started = time.monotonic()
    marks = [("start", 0.0, 0.0)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as night:
        assert night.stdout is not None
        used = 0.0
        for line in night.stdout:
            used = core_seconds(night.pid)
            if stage := stage_of(line):
                marks.append((stage, time.monotonic() - started, used))
        ended = time.monotonic() - started
    if night.returncode:
        raise UserError(f"overnight_run.py ended with {night.returncode}, for the reason above")
    return [*marks, ("end", ended, used)]


def main(config: Config) -> None:
    with tempfile.TemporaryDirectory() as folder:
        marks = run_night(config.images, Path(folder) / "demo")
    print("| stage | seconds | core-seconds |\n| --- | --- | --- |")
    for (stage, began, used), (_, ended, used_then) in pairwise(marks):
        print(f"| {stage} | {ended - began:.1f} | {used_then - used:.1f} |")
    _, seconds, cores = marks[-1]
    summary(seconds=seconds, core_seconds=cores)


if __name__ == "__main__":
    sys.exit(run_script(main, Config, __doc__))
