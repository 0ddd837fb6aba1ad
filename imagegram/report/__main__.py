"""Make the page of finished nights again, from their folders alone; or of what generate_images.py
made.

.venv/bin/python -m imagegram.report data/demo
.venv/bin/python -m imagegram.report data       # data/generated/*, beside data/index
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from imagegram.cli import run_script, summary


@dataclass
class Config:
    nights: Positional[list[Path]]
    """folders that overnight_run.py wrote, or that hold index/ and generated/"""


def main(config: Config) -> None:
    # Imported here, so that --help need not wait for torch.
    from imagegram.index.folder import Index
    from imagegram.metrics.held_out import read_held_out
    from imagegram.report.page import Sources, write_page
    from imagegram.report.pictures import Originals
    from imagegram.report.record import FILE, Night

    # All of them are opened before any page is replaced.
    opened = []
    for out in config.nights:
        night = Night.read(out) if (out / FILE).exists() else Night.of_images(out)
        opened.append((out, night, Index.open(out / "index")))
    for out, night, index in opened:
        originals = Originals(index.token_folders())
        summary(page=write_page(Sources(out, night, index, read_held_out(index), originals)))


if __name__ == "__main__":
    sys.exit(run_script(main, Config, __doc__))
