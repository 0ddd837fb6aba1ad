"""Two processes that tokenize one data set together: copies of the tests' own process."""

import ctypes
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from imagegram import tokenizing
from imagegram.cli import UserError
from imagegram.codec import Codec
from imagegram.tokens import TokenFolder
from tests.support.fake_codec import SMALL_JOB, FakeCodec
from tests.support.kills import fork
from tests.support.tokenize import contents, tokenize

NEW_NAMESPACES = 0x10020000  # CLONE_NEWUSER | CLONE_NEWNS


class Process:
    """One of the two: what it does in the folder of a scenario."""

    def __init__(self, folder: Path, rank: int):
        self.folder, self.rank, self.out = folder, rank, folder / "out"

    def barrier(self, point: str) -> None:
        """Wait until both are here."""
        (self.folder / f"{point}-{self.rank}").touch()
        deadline = time.monotonic() + 60
        while not (self.folder / f"{point}-{1 - self.rank}").exists():
            assert time.monotonic() < deadline, f"the other process is not at {point}"
            time.sleep(0.005)

    def run(self, out: str = "out", codec: Codec | None = None, **changes: Any) -> TokenFolder:
        """This process's share of a job."""
        used = codec or FakeCodec()
        tokenizing.load_codec = lambda name="tiny", revision="": used
        return tokenize(out=self.folder / out, rank=self.rank, world_size=2, **SMALL_JOB | changes)

    def error(self, **changes: Any) -> str:
        """What the job ends with."""
        try:
            self.run(**changes)
        except UserError as error:
            return str(error)
        raise AssertionError("the job ended well")

    def finish(self, **changes: Any) -> None:
        """Run the job to its end: the tokens are those of a single quiet process."""
        self.run(**changes)
        self.barrier("finished")
        if self.rank == 0:
            changes.pop("codec", None)
            tokenize(out=self.folder / "clean", **SMALL_JOB | changes)
            assert contents(self.out) == contents(self.folder / "clean")


def in_two_processes(
    scenario: Callable[[Process], None], folder: Path, own_mounts: bool = False
) -> None:
    """Run `scenario` in both; what fails in one fails here. Mounts of their own end with them."""
    reports = [folder / "failed", folder / "failed-0", folder / "failed-1"]

    def both() -> None:
        if own_mounts:
            ids = {"uid_map": f"0 {os.getuid()} 1", "gid_map": f"0 {os.getgid()} 1"}
            assert ctypes.CDLL(None).unshare(NEW_NAMESPACES) == 0
            for name, text in ({"setgroups": "deny"} | ids).items():
                Path(f"/proc/self/{name}").write_text(text)
        processes = [
            fork(partial(scenario, Process(folder, rank)), reports[1 + rank]) for rank in (0, 1)
        ]
        assert [os.waitpid(process, 0)[1] for process in processes] == [0, 0]

    ended = os.waitpid(fork(both, reports[0]), 0)[1]
    said = [report.read_text() for report in reversed(reports) if report.exists()]
    assert ended == 0, "\n".join(said)
