"""The machine: cores and memory that this process may use, and children that die with their parent."""

import contextlib
import ctypes
import os
import signal
from pathlib import Path


def cores() -> int:
    """CPU cores that this process may really use: the affinity mask, cut by a container's quota."""
    count = len(os.sched_getaffinity(0))
    with contextlib.suppress(OSError, ValueError):  # no cgroup v2 or no quota ("max")
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        count = min(count, max(1, int(quota) // int(period)))
    return count


def die_with_parent(parent: int) -> None:
    """Run first in a child of process `parent`: it is killed when its parent dies, of whatever (Linux)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:  # dead already
        os._exit(1)


def memory_available() -> int:
    """Bytes of memory that can be taken without swapping."""
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) * 1024
