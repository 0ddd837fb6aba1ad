"""What was drawn of each seed, kept for the process that puts several seeds together."""

import json
import time
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imagegram.artifact import Artifact
from imagegram.files import atomic
from imagegram.machine import Processes

FILES = "seed-*.npz"


def part_file(folder: Path, seed: int) -> Path:
    """Where the part of a seed lies, of the run in `folder`."""
    return folder / FILES.replace("*", str(seed))


@dataclass(frozen=True)
class Part:
    """n sequences, of which the first m are decoded."""

    tokens: NDArray[np.uint16]  # [n, k]
    sources: NDArray[np.int64]  # [n, k, 2]
    given: NDArray[np.int64]
    """[n], the held-out images that gave their prompts; [0] without prompts"""
    noises: NDArray[np.int64]  # [m], their seeds
    images: NDArray[np.uint8]  # [m, 3, S, S]

    def save(self, file: Path, asked: dict[str, Any]) -> None:
        """Write it to `file`, at once or not at all, with all that it depends on."""
        with atomic(file) as temporary, temporary.open("wb") as f:
            np.savez(f, asked=np.array(json.dumps(asked)), **vars(self))

    @classmethod
    def load(cls, file: Path, asked: dict[str, Any]) -> "Part | None":
        """What `save` wrote; None where nothing is there, or what was not drawn as `asked`."""
        try:
            with np.load(file) as found:
                if json.loads(str(found["asked"])) != asked:
                    return None
                return cls(**{field.name: found[field.name] for field in fields(cls)})
        except (FileNotFoundError, zipfile.BadZipFile, ValueError, KeyError):
            return None


class Parts:
    """Those of `seeds`, of a run in the folder of `artifact`: a file each, which any process may
    have written; that of a single seed stays in memory."""

    def __init__(
        self, artifact: Artifact, seeds: range, processes: Processes, asked: dict[str, Any]
    ):
        self.artifact = artifact
        self.seeds = seeds
        self.processes = processes
        # What the draws of a seed depend on: not which other seeds there are.
        self.asked = {name: value for name, value in asked.items() if name not in ("seed", "seeds")}
        self.only: Part | None = None
        self.started = time.monotonic()

    def _part(self, seed: int) -> Part | None:
        return self.only or Part.load(part_file(self.artifact.path, seed), self.asked)

    def missing(self) -> Iterator[int]:
        """The seeds of this process that nothing is drawn from yet."""
        for seed in self.seeds[self.processes.rank :: self.processes.world_size]:
            if not self._part(seed):
                yield seed

    def add(self, seed: int, part: Part) -> None:
        """Keep the part of a seed."""
        if len(self.seeds) == 1:
            self.only = part
        else:
            part.save(part_file(self.artifact.path, seed), self.asked)

    def joined(self) -> Part | None:
        """All of them, for the first process, which waits for the others; else None."""
        first, count = self.processes.rank == 0, self.processes.world_size
        while True:
            parts = [part for seed in self.seeds if (part := self._part(seed))]
            if first and len(parts) == len(self.seeds):
                return joined(parts)
            if not first or not self.artifact.others_at_work(count, self.started):
                drawn = f"{self.artifact.path}: {len(parts)} of {len(self.seeds)} seeds are drawn"
                print(f"{drawn}; the same command goes on from them")
                return None
            time.sleep(0.5)


def joined(parts: Sequence[Part]) -> Part:
    """Several parts as one: the decoded sequences of each, then the others of each."""
    decoded = np.concatenate([np.arange(len(part.tokens)) < len(part.noises) for part in parts])
    order = np.argsort(~decoded, kind="stable")
    names = [field.name for field in fields(Part)]
    every = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    for name in ("tokens", "sources", "given"):
        if len(every[name]):
            every[name] = every[name][order]
    return Part(**every)
