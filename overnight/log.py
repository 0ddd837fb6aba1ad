"""A log beside the terminal: every line with its time, of a progress bar only how it ended."""

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any


class Tee:
    """A stream that writes to another one, and its finished lines to a log."""

    def __init__(self, stream: IO[str], log: IO[str]):
        self.stream = stream
        self.log = log
        self.line = ""  # not finished yet

    def write(self, text: str) -> int:
        self.stream.write(text)
        *lines, self.line = (self.line + text).split("\n")
        for line in lines:
            self.record(line)
        # what a bar drew over is gone
        self.line = self.line[self.line.rstrip("\r").rfind("\r") + 1 :]
        return len(text)

    def record(self, line: str) -> None:
        """Add one line to the log."""
        # a bar draws over itself
        shown = line.rstrip("\r").rpartition("\r")[2].removeprefix("\x1b[A")
        if shown.strip():
            with contextlib.suppress(OSError):  # a full disk must not hide what filled it
                self.log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {shown}\n")
                self.log.flush()

    def flush(self) -> None:
        self.stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextlib.contextmanager
def logged(file: Path) -> Iterator[None]:
    """In the block, what is printed, and the exception that ends it, is added to `file` as well."""
    with file.open("a", errors="backslashreplace") as log:
        out, errors = Tee(sys.stdout, log), Tee(sys.stderr, log)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
            try:
                yield
            except BaseException as error:
                out.record(f"ended by {type(error).__name__}: {error}")
                raise
