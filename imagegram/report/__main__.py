"""Make the page of finished nights again, from their folders alone; of several also a page that sets them side by side.

.venv/bin/python -m imagegram.report data/demo
.venv/bin/python -m imagegram.report data/demo data/shapes    # and data/library.html
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from imagegram.cli import run_script, summary


@dataclass
class Config:
    nights: Positional[list[Path]]  # folders that overnight_run.py wrote
    library: Path | None = None  # the page of several nights; None: library.html in the folder that all of them lie in


def main(config: Config) -> None:
    # Imported here, so that --help need not wait for torch.
    from imagegram.index.folder import Index
    from imagegram.metrics.held_out import read_control
    from imagegram.report.library import write_library
    from imagegram.report.page import Sources, write_page
    from imagegram.report.record import Night
    from imagegram.report.thumbnails import Originals

    # All of them are opened before any page is replaced.
    nights = [(out, Night.read(out), Index.open(out / "index")) for out in config.nights]
    for out, night, index in nights:
        originals = Originals(index.token_folders())
        summary(page=write_page(Sources(out, night, index, read_control(index), originals)))
    if len(nights) > 1 or config.library:
        common = Path(os.path.commonpath([out.resolve().parent for out in config.nights]))
        summary(library=write_library(config.nights, config.library or common / "library.html"))


if __name__ == "__main__":
    sys.exit(run_script(main, Config, __doc__))
