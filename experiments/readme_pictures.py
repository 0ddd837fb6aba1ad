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

import numpy as np
import torch
from PIL import Image
from tyro.conf import Positional

from imagegram.cli import run_script, summary
from imagegram.files import atomic, read_json
from imagegram.metrics.intervals import from_json
from imagegram.metrics.registry import BY_KEY, CLOSER, COHERENCE, EXACT_COPY_PROBABILITY
from imagegram.report.pictures import colour_of
from imagegram.report.record import Night
from imagegram.report.sheets import rows_of_images

ROWS = {
    "kernel": "kernel n-gram",
    "ntd-long": "infini-gram, 10 tokens",
    "unigram": "independent tokens",
}
COLUMNS = 10
COLUMNS_OF_TABLE = tuple(
    BY_KEY[key]
    for key in (EXACT_COPY_PROBABILITY.key, "held_out_bits", CLOSER.key, "closer_in_codes", "mosaics", COHERENCE.key)
)
POINTED_AT = 3  # token of the first picture, in the screenshot of the page
MARKERS = "osD^vP*X"


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
        facts = read_json(folder / "pictures.json")[:COLUMNS]
        generated = [Image.open(folder / f"image_{i:04d}.png").convert("RGB") for i in range(len(facts))]
        nearest = [Image.open(folder / f"nearest_{i:04d}.png").convert("RGB") for i in range(len(facts))]
        rows.append((label, as_tensor(generated)))
        rows.append(("its nearest training images, rebuilt", as_tensor(nearest)))
    return rows_of_images(rows)


def frontier(config: Config, night: Night, path: Path) -> None:
    """Coherence against P(closer) of every sampler, with 95 % intervals."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    axes.axhline(1, color="0.8", zorder=0)
    axes.axvline(0.5, color="0.8", zorder=0)
    for number, name in enumerate(night.finished(config.night)):
        figures = from_json(read_json(night.folder(config.night, name) / "report.json")["generated"])
        closer = figures[CLOSER.key]
        coherence = figures[COHERENCE.key]
        error = [[[f.value - f.low], [f.high - f.value]] for f in (closer, coherence)]
        chance = figures[EXACT_COPY_PROBABILITY.key].value_text("p")
        marker = MARKERS[number % len(MARKERS)]
        label = f"{name}, P(copy) {chance}"
        colour = colour_of(name)
        axes.errorbar(closer.value, coherence.value, error[1], error[0], marker, c=colour, lw=1, label=label)
    axes.legend(loc="lower right", fontsize=9)
    axes.set_xlim(0, 1.02)
    axes.set_xlabel("P(closer to the training images than a held-out real image): 0.5 like real images, 1 a copier")
    axes.set_ylabel("coherence: 1 real images, 0 independent tokens")
    with atomic(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130)
    plt.close(figure)


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


def table(config: Config, night: Night) -> str:
    """The figures of every sampler and of the held-out images, in Markdown."""
    titles = " | ".join(metric.title for metric in COLUMNS_OF_TABLE)
    lines = [f"| sampler | {titles} |", "| --- " * (len(COLUMNS_OF_TABLE) + 1) + "|"]
    reports = [
        from_json(read_json(night.folder(config.night, n) / "report.json")) for n in night.finished(config.night)
    ]
    rows = {f"`{name}`": r["generated"] for name, r in zip(night.finished(config.night), reports, strict=True)}
    for name, figures in (rows | {"*held-out real images*": reports[-1]["held_out"]}).items():
        lines.append(f"| {name} | {' | '.join(metric.text(figures) for metric in COLUMNS_OF_TABLE)} |")
    return "\n".join(lines)


def main(config: Config) -> None:
    night = Night.read(config.night)
    rows = config.docs / f"samplers_{config.name}.png"
    plot = config.docs / f"frontier_{config.name}.png"
    with atomic(rows) as temporary:
        samplers(config, night).save(temporary, "PNG")
    frontier(config, night, plot)
    print(table(config, night))
    page = config.docs / f"page_{config.name}.png"
    shown = screenshot(config.night / "report.html", page)
    summary(samplers=rows, frontier=plot, page=page if shown else "not made: no Chromium, or no playwright")


if __name__ == "__main__":
    sys.exit(run_script(main, Config, __doc__))
