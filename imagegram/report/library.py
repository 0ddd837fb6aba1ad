"""The library: several finished nights side by side, on a page that leads to the page of each."""

import os
from pathlib import Path
from typing import Any

from imagegram.index.folder import Index
from imagegram.report.answer import answer
from imagegram.report.page import read_runs, render
from imagegram.report.pictures import read_wall
from imagegram.report.record import Night
from imagegram.report.thumbnails import sheet, small
from imagegram.report.verdict import COLUMNS, best_of

SHOWN = ("exact_copy_probability", "exact_copies", "closer_than_held_out", "coherence", "held_out_bits")
PICTURES = 16  # of the best sampler of each night
COLUMNS_OF_PICTURES = 4


def write_library(nights: list[Path], file: Path) -> Path:
    """Write the page of finished `nights`, folders of overnight_run.py that hold a report.html; returns its place."""
    cards = [_card(out, file.parent) for out in nights]
    samplers = dict.fromkeys(name for card in cards for name in card["figures"])
    columns = [column for column in COLUMNS if column.key in SHOWN]
    return render("library.html.j2", file, nights=cards, samplers=list(samplers), columns=columns)


def _card(out: Path, parent: Path) -> dict[str, Any]:
    """What the library says of one night; its links start at `parent`."""
    night = Night.read(out)
    index = Index.open(out / "index")
    runs, control = read_runs(out, night)
    best = best_of(runs)
    pictures = read_wall(best.name, best.path).pictures[:PICTURES] if best and night.decoded else []
    return {
        "datasets": ", ".join(folder.manifest.dataset for folder in index.token_folders()),
        "link": Path(os.path.relpath(out / "report.html", parent)).as_posix(),
        "night": night,
        "images": index.num_images,
        "codec": index.codec,
        "answer": answer(runs, control, night.sequences),
        "best": best.name if best else "",
        "sheet": sheet([small(picture) for picture in pictures], COLUMNS_OF_PICTURES) if pictures else "",
        "count": len(pictures),
        "figures": {"held-out real images": control} | {run.name: run.figures for run in runs},
    }
