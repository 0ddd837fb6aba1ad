"""SIGKILL at a chosen moment: what a crash leaves is what the next run finds."""

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from imagegram.machine import die_with_parent


def fork(work: Callable[[], object], report: Path | None = None) -> int:
    """Start `work` in a copy of this process, and return its id; `report` is for its error."""
    parent = os.getpid()
    if child := os.fork():
        return child
    try:
        die_with_parent(parent)
        # tqdm's lock is shared by all copies: one killed while holding it would stop the later ones
        tqdm.set_lock(threading.RLock())
        work()
        os._exit(0)
    except BaseException:
        if report:
            report.write_text(traceback.format_exc())
    finally:
        os._exit(1)


def killed(build: Callable[[], object], at_event: int) -> bool:
    """SIGKILL `build`, in a copy of this process, before its n-th change of a folder; if any."""
    events = 0

    def count(event: str, arguments: Any) -> None:
        nonlocal events
        changes = event in ("os.mkdir", "os.rename", "os.link", "os.remove", "os.rmdir")
        if changes or (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            events += 1
            if events == at_event:
                os.kill(os.getpid(), signal.SIGKILL)

    def work() -> None:
        sys.addaudithook(count)
        build()

    status = os.waitstatus_to_exitcode(os.waitpid(fork(work), 0)[1])
    assert status in (0, -signal.SIGKILL)
    return status != 0
