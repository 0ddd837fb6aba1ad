"""The machine: cores and memory that this process may use, children that die with it."""

import contextlib
import ctypes
import functools
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from imagegram.cli import UserError

if TYPE_CHECKING:
    import torch

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
CGROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")


def cores() -> int:
    """CPU cores that this process may really use: the affinity mask, cut by a container's quota."""
    count = len(os.sched_getaffinity(0))
    with contextlib.suppress(OSError, ValueError):  # no cgroup v2 or no quota ("max")
        quota, period = (CGROUPS / "cpu.max").read_text().split()
        count = min(count, max(1, int(quota) // int(period)))
    return count


@contextlib.contextmanager
def single_threads() -> Iterator[int]:
    """Run every operation of torch on one thread; yields how many threads it had before.

    Threads that share every small operation wait for each other between any two; where other
    processes want the same cores, they hardly ever run together.
    """
    import torch  # takes seconds, which most of what imports this file need not wait for

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield min(threads, cores())
    finally:
        torch.set_num_threads(threads)


def choose_device() -> "torch.device":
    """The GPU where there is one, of each process of torchrun its own; else the CPU."""
    import torch

    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


@functools.cache
def has_bfloat16() -> bool:
    """Whether this processor multiplies in bfloat16, which else is slower than float32."""
    import torch

    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def die_with_parent(parent: int) -> None:
    """Call first in a child of process `parent`: Linux kills it when the parent dies."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:  # dead already
        os._exit(1)


@contextlib.contextmanager
def stops_wait() -> Iterator[None]:
    """Defer signals that stop this process until the block has ended, then raise KeyboardInterrupt.

    For blocks that fork. A signal that arrives meanwhile would be handled in the hooks that Python
    runs after a fork, whose exceptions are ignored: the stop would be lost.
    """
    if threading.current_thread() is not threading.main_thread():  # another cannot handle signals
        yield
        return
    asked: list[int] = []
    stops = [stop for stop in STOPS if signal.getsignal(stop) is not signal.SIG_IGN]  # nohup
    handlers = {stop: signal.getsignal(stop) for stop in stops}
    for stop in handlers:
        signal.signal(stop, lambda number, frame: asked.append(number))
    try:
        yield
    finally:
        for stop, handler in handlers.items():
            signal.signal(stop, handler)
    if asked:
        raise KeyboardInterrupt


def memory_available() -> int:
    """Bytes of memory available without swapping, within the limits of a container or a job."""
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    available = int(lines["MemAvailable"].split()[0]) * 1024
    groups = [line[3:] for line in OWN_GROUPS.read_text().splitlines() if line.startswith("0::")]
    for group in groups:  # of cgroup v2, the innermost limit to the outermost
        innermost = CGROUPS / group.strip("/")
        for folder in (innermost, *innermost.parents):
            with contextlib.suppress(OSError, ValueError):  # no limit ("max"), or not to be seen
                limit = int((folder / "memory.max").read_text())
                available = min(available, limit - int((folder / "memory.current").read_text()))
    return max(0, available)


@dataclass(frozen=True)
class Processes:
    """The processes of one job."""

    rank: int = 0  # of this one
    world_size: int = 1
    on_this_machine: int = 1

    @classmethod
    def from_environment(cls) -> "Processes":
        """As torchrun says it; UserError where these are no such numbers."""
        usual = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
        given = [os.environ.get(name) or value for name, value in usual.items()]
        try:
            processes = cls(*map(int, given))
        except ValueError:
            processes = cls(-1)
        if not 0 <= processes.rank < processes.world_size:
            what = f"RANK={given[0]} of WORLD_SIZE={given[1]}"
            raise UserError(f"{what}: the rank counts from 0 and is below the size")
        return processes


ONE = Processes()
