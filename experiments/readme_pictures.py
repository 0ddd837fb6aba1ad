"""The README's pictures and the table of docs/findings.md, from a finished night.

    .venv/bin/python overnight_run.py --decoded 256 --out data/digits256
    .venv/bin/python -m experiments.readme_pictures data/digits256 --name digits

Writes docs/samplers_NAME.png: what a copier, the best sampler and independent tokens make, in the order in which it was
drawn, each above the training images that are nearest in tokens; docs/frontier_NAME.png: coherence against P(closer);
and, with Chromium, docs/page_NAME.png: what the page opens with. Prints the table in Markdown.
"""

import importlib.util
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure as Plot
from PIL import Image
from tyro.conf import Positional

from experiments.common import save_plot
from imagegram.cli import run_script, summary
from imagegram.files import atomic, read_json
from imagegram.metrics.intervals import from_json
from imagegram.metrics.registry import (
    BY_KEY,
    CLOSER,
    CLOSER_IN_CODES,
    COHERENCE,
    EXACT_COPY_PROBABILITY,
    HELD_OUT_BITS,
)
from imagegram.report.pictures import colour_of
from imagegram.report.record import Night
from imagegram.report.sheets import rows_of_images

ROWS = {
    "kernel": "kernel n-gram",
    "ntd-long": "infini-gram, 10 tokens",
    "unigram": "independent tokens",
}
COLUMNS = 10
TABLE = (EXACT_COPY_PROBABILITY, HELD_OUT_BITS, CLOSER, CLOSER_IN_CODES, BY_KEY["mosaics"], COHERENCE)
POINTED_AT = 3  # token of the first picture, in the screenshot of the page
MARKERS = "osD^vP*X"
Reports = dict[str, dict[str, Any]]  # of each sampler: generated and held_out


@dataclass
class Config:
    night: Positional[Path]  # a folder that overnight_run.py wrote
    name: str  # of the data set, for the names of the pictures
    docs: Path = Path("docs")


def as_tensor(pictures: list[Image.Image]) -> torch.Tensor:
    """Pictures of one size -> uint8 [n, 3, S, S]."""
    return torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures])).permute(0, 3, 1, 2)


def samplers(config: Config, night: Night) -> Image.Image:
    """Rows of generated images, each above a row of their nearest training images."""
    rows = []
    for name, label in ROWS.items():
        folder = night.folder(config.night, name)
        for kind, words in (("image", label), ("nearest", "its nearest training images, rebuilt")):
            files = sorted(folder.glob(f"{kind}_*.png"))[:COLUMNS]
            rows.append((words, as_tensor([Image.open(file).convert("RGB") for file in files])))
    return rows_of_images(rows)


def frontier(reports: Reports, path: Path) -> None:
    """Coherence against P(closer) of every sampler, with 95 % intervals."""
    figure = Plot(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.axhline(1, color="0.8", zorder=0)
    axes.axvline(0.5, color="0.8", zorder=0)
    for number, (name, report) in enumerate(reports.items()):
        figures = report["generated"]
        closer = figures[CLOSER.key]
        coherence = figures[COHERENCE.key]
        error = [[[f.value - f.low], [f.high - f.value]] for f in (closer, coherence)]
        label = f"{name}, P(copy) {figures[EXACT_COPY_PROBABILITY.key].value_text('p')}"
        look: dict[str, Any] = {"fmt": MARKERS[number % len(MARKERS)], "c": colour_of(name), "lw": 1, "label": label}
        axes.errorbar(closer.value, coherence.value, error[1], error[0], **look)
    axes.legend(loc="lower right", fontsize=9)
    axes.set_xlim(0, 1.02)
    axes.set_xlabel("P(closer to the training images than a held-out real image): 0.5 like real images, 1 a copier")
    axes.set_ylabel("coherence: 1 real images, 0 independent tokens")
    save_plot(figure, path, dpi=130)


def screenshot(page: Path, picture: Path) -> bool:
    """What the page opens with, one token of one picture pointed at; False where there is no browser to ask."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if not chromium or not importlib.util.find_spec("playwright"):
        return False
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        window = browser.new_page(viewport={"width": 1280, "height": 880})
        window.goto(page.resolve().as_uri())
        window.locator(".tokens button").nth(POINTED_AT).hover()
        with atomic(picture) as temporary:
            temporary.write_bytes(window.screenshot())
        browser.close()
    return True


def table(reports: Reports) -> str:
    """The figures of every sampler and of the held-out images, in Markdown."""
    lines = [f"| sampler | {' | '.join(metric.title for metric in TABLE)} |", "| --- " * (len(TABLE) + 1) + "|"]
    rows = {f"`{name}`": report["generated"] for name, report in reports.items()}
    rows["*held-out real images*"] = next(iter(reports.values()))["held_out"]
    lines += [f"| {name} | {' | '.join(metric.text(figures) for metric in TABLE)} |" for name, figures in rows.items()]
    return "\n".join(lines)


def main(config: Config) -> None:
    night = Night.read(config.night)
    folders = {name: night.folder(config.night, name) for name in night.finished(config.night)}
    reports = {name: from_json(read_json(folder / "report.json")) for name, folder in folders.items()}
    rows, plot, page = (config.docs / f"{kind}_{config.name}.png" for kind in ("samplers", "frontier", "page"))
    with atomic(rows) as temporary:
        samplers(config, night).save(temporary, "PNG")
    frontier(reports, plot)
    print(table(reports))
    shown = screenshot(config.night / "report.html", page)
    summary(samplers=rows, frontier=plot, page=page if shown else "not made: no Chromium, or no playwright")


if __name__ == "__main__":
    sys.exit(run_script(main, Config, __doc__))
