"""What a night records of itself in night.json: enough to make its page from the folder."""

import os
import platform
import subprocess
import time
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from imagegram.cli import UserError
from imagegram.files import read_json, write_json
from imagegram.machine import cores
from imagegram.samplers.draw import Draw

ROOT = Path(__file__).parent.parent.parent
FILE = "night.json"
FITS = "fitting the samplers"
CLASSIFIERS = "training the classifiers"
FIDELITY = "measuring the tokenizer"
STEPS = (FITS, CLASSIFIERS, FIDELITY)  # what several samplers need, and is done once for an index
HELD_OUT = "held-out"  # the folder of held-out images beside those of the samplers


@dataclass
class Night:
    """A run of overnight_run.py over one index."""

    command: str
    sequences: int  # for each sampler
    decoded: int  # of these
    seed: int  # the first
    samplers: dict[str, dict[str, Any]]  # name -> what is drawn, in the order in which they are run
    plan: dict[str, Any] = field(default_factory=dict)  # all that decides the results
    started: str = field(default_factory=lambda: time.strftime("%Y-%m-%d %H:%M"))
    machine: str = field(default_factory=lambda: machine())
    versions: dict[str, str] = field(default_factory=lambda: versions())
    seconds: dict[str, float] = field(default_factory=dict)
    """of every step that was not finished before"""
    failed: dict[str, str] = field(default_factory=dict)  # step -> why
    skipped: list[str] = field(default_factory=list)  # samplers that there was no time for
    complete: bool = False  # nothing failed, and nothing is left to do
    seeds: int = 1  # that share the sequences

    def draw(self, name: str) -> Draw:
        return Draw.from_json(self.samplers[name])

    def folder(self, out: Path, name: str) -> Path:
        """Where the images of a sampler, or HELD_OUT, are."""
        return out / "generated" / f"{name}-seed{self.seed}"

    def finished(self, out: Path) -> list[str]:
        """The samplers whose images are there, made as this night asks."""
        left = [name for name in self.samplers if name not in self.failed]
        return [name for name in left if self.is_finished(out, name)]

    def is_finished(self, out: Path, name: str) -> bool:
        """Whether the images of a sampler are there, made as this night asks."""
        report = self.folder(out, name) / "report.json"
        if not report.exists():
            return False
        request = read_json(report)["request"]
        asked = self.samplers[name] | {"sequences": self.sequences // self.seeds, "seed": self.seed}
        return bool(request.items() >= asked.items()) and request.get("seeds", 1) == self.seeds

    def write(self, out: Path) -> None:
        """Record it in its folder."""
        write_json(out / FILE, asdict(self))

    @classmethod
    def read(cls, out: Path) -> "Night":
        """Read what `write` wrote; UserError where there is none."""
        return cls(**read_json(out / FILE))

    @classmethod
    def of_images(cls, out: Path) -> "Night":
        """What generate_images.py made in out/generated, of the newest seed and numbers; a line
        says what is left out. UserError where nothing is finished there."""
        reports = out.glob("generated/*-seed*/report.json")
        found = {}
        for report in sorted(reports, key=lambda report: -report.stat().st_mtime_ns):
            request = read_json(report)["request"]
            if request["sampler"] != "held-out":
                found[report.parent.name.rpartition("-seed")[0]] = request
        if not found:
            raise UserError(
                f"{out} holds no night, and no generated/SAMPLER-seedSEED: which folder is meant?"
            )
        samplers = {name: Draw.from_json(request).to_json() for name, request in found.items()}
        newest = next(iter(found.values()))
        seeds = newest.get("seeds", 1)
        numbers = newest["sequences"] * seeds, newest["decoded"] * seeds, newest["seed"]
        night = cls("generate_images.py", *numbers, samplers, seeds=seeds)
        if left := [name for name in samplers if not night.is_finished(out, name)]:
            print(f"left out, of another seed or number: {', '.join(left)}")
        night.samplers = {name: draw for name, draw in samplers.items() if name not in left}
        return night


def machine() -> str:
    """This machine in a few words."""
    import torch

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{cores()} cores ({platform.machine()}), {memory:.0f} GiB of memory, {gpu}"


def versions() -> dict[str, str]:
    """Versions of what the figures depend on."""
    found = {name: version(name) for name in ("torch", "numpy", "scipy", "fast-gram")}
    command = ["git", "describe", "--always", "--dirty"]
    git = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    commit = git.stdout.strip() if git.returncode == 0 else "not in a repository"
    return {"imagegram": commit, "python": platform.python_version()} | found
