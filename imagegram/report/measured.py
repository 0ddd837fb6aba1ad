"""The page of what was measured of somebody else's pictures or tokens: the verdict, the figures,
the worst first.

OUT/report.html, figures.json (all figures, and what they were made of), images.csv (every picture
with the training image that it is nearest to). A finished folder of the same request is left alone.
"""

import csv
import hashlib
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from imagegram.artifact import Artifact
from imagegram.cli import UserError, summary
from imagegram.data.dataset import ImageDataset
from imagegram.data.preprocess import preprocess
from imagegram.files import atomic, save_array, sha256
from imagegram.metrics import instrument, own_tokens, registry
from imagegram.metrics.commands import Pictures, Tokens
from imagegram.metrics.intervals import Figure, to_json
from imagegram.metrics.registry import BY_KEY, FIGURES_VERSION, Figures, Metric
from imagegram.report.page import KIND_NAMES, render
from imagegram.report.pictures import PALETTE, SIDE, bars, colours_of, sheet, small
from imagegram.report.sheets import as_picture

SHOWN = {"generated": 200, "held_out": 12}  # pictures
COLUMNS = 8  # of a sheet
SAMPLER_KEYS = ("held_out_bits", "training_bits", "exact_copy_probability")  # by sampler
# title and note of the galleries
PICTURES = {
    "generated": (
        "Nearest to a training image first",
        "Left the picture, right its nearest training image. The calibrated distance is that to "
        "the nearest training image over the mean of its 50 nearest: 0 is a copy.",
    ),
    "held_out": (
        "The same of held-out real pictures",
        "How near real pictures come that nobody copied.",
    ),
}
TOKENS_NOTE = (
    "A cell for each token, a colour for each training image that gave several: the longest run "
    "first, then what goes on. Grey: an image that gave one token only. Half a cell: from another "
    "position. sources.npy has all."
)


@dataclass
class Gallery:
    """Pictures beside others, or bars of tokens, each with its caption."""

    title: str
    note: str
    captions: list[str] = field(default_factory=list)
    sheets: list[dict[str, str]] = field(default_factory=list)
    bars: list[str] = field(default_factory=list)

    def show(self, name: str, mine: list[Image.Image], nearest: list[Image.Image]) -> None:
        """Show pictures beside their nearest training images."""
        labelled = {self.title: mine, "the nearest training image": nearest}
        for which, (label, shown) in enumerate(labelled.items()):
            url = sheet(shown, COLUMNS)
            self.sheets.append({"name": f"{name}{which}", "url": url, "label": label})


@dataclass
class Page:
    """What the template names."""

    title: str
    answer: Sequence[str]
    how: str
    tables: list[dict[str, Any]]
    galleries: list[Gallery]
    data: str

    def write(self, path: Path) -> None:
        """Write report.html."""
        metrics = dict.fromkeys(row["metric"] for table in self.tables for row in table["rows"])
        command = "python -m imagegram.metrics " + shlex.join(sys.argv[1:])
        told = {"columns": COLUMNS, "metrics": list(metrics), "command": command}
        render("measured.html.j2", path, **told, **vars(self))


def table(
    what: str, metrics: Sequence[Metric], figures: dict[str, Figures], columns: dict[str, str]
) -> dict[str, Any]:
    """Rows of what was measured; `columns`: keys of `figures`, with their titles."""
    rows: list[dict[str, Any]] = []
    for metric in metrics:
        cells = [metric.cell(figures[who]) for who in columns]
        mine, real = (metric.of(figures.get(who, {})) for who in ("generated", "held_out"))
        if metric.better == "0.5":  # compared with held-out ones already
            real = real or Figure.exactly(0.5)
        beyond = mine and real and instrument.differs(mine, real)
        if any(text != "-" for text, _ in cells):
            rows.append({"metric": metric, "cells": cells, "beyond": beyond})
    return {"what": what, "columns": list(columns.values()), "rows": rows}


def finished(out: Path, asked: dict[str, Any]) -> bool:
    """Whether `out`, which is made ours, holds what was asked already."""
    place = Artifact(out, "measured")
    place.claim()
    before = place.record()
    if before and before["request"] == asked and (out / "report.html").exists():
        print(f"{out} is finished with these settings, nothing to do")
        return True
    return False


def write(
    out: Path,
    asked: dict[str, Any],
    record: dict[str, Any],
    page: Page,
    facts: list[dict[str, Any]],
) -> None:
    """Write the files of a measurement, figures.json last, and print verdict and tables."""
    (out / "figures.json").unlink(missing_ok=True)
    with (
        atomic(out / "images.csv") as temporary,
        # names need not be text
        temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as f,
    ):
        lines = csv.DictWriter(f, list(facts[0]))
        lines.writeheader()
        lines.writerows(facts)
    page.write(out / "report.html")
    Artifact(out, "measured").finish({"request": asked, "answer": page.answer, **to_json(record)})
    print("\n".join(page.answer))
    for each in page.tables:
        print(f"\nIn {each['what']}")
        rows = [("", each["columns"])]
        for row in each["rows"]:
            shown = [f"{text} ({small})" if small else text for text, small in row["cells"]]
            rows.append((row["metric"].title, shown))
        for title, cells in rows:
            print(f"{title:<20}" + "".join(f"{cell:>32}" for cell in cells))
    summary(page=out / "report.html", figures=out / "figures.json", images=out / "images.csv")


def measure_pictures(command: Pictures) -> None:
    """`python -m imagegram.metrics pictures`: measure, and write the page."""
    if command.images < instrument.LEAST // 2 or command.size < 0:
        raise UserError(f"--images is at least {instrument.LEAST // 2}, and --size at least 0")
    datasets = instrument.open_sets(command)
    given = [path for path in command.own_features.values() if path and path.exists()]
    asked: dict[str, Any] = {name: getattr(command, name) for name in ("size", "images", "seed")}
    asked["network"] = command.network and find_spec("efficientnet_lite_pytorch") is not None
    asked |= {who: [each.name, each.split, each.fingerprint] for who, each in datasets.items()}
    asked |= {"features": [sha256(path) for path in given], "version": FIGURES_VERSION}
    if finished(command.out, asked):
        return
    measured = instrument.measure_pictures(command, datasets)
    n, name = measured.images, datasets["generated"].name
    columns = {"generated": f"{n} of these", "held_out": f"{n} held-out real"}
    spaces = measured.figures.items()
    known = [f"{each.name}, {each.size} pictures, {each.fingerprint}" for each in datasets.values()]
    page = Page(
        f"{Path(name).name} against its training images",
        instrument.answer(measured),
        f"{n} pictures of {name} beside {n} held-out real ones; both are compared with {n} other "
        f"held-out ones, and with all {measured.training:,} distinct training images.",
        [table(instrument.SPACES[space], registry.SETS, found, columns) for space, found in spaces],
        [_gallery(measured, who) for who in ("generated", "held_out")],
        "; ".join(known),
    )
    facts = [
        {
            "set": who,
            "image": datasets[who].name_of(fact["ordinal"]),
            "nearest": datasets["training"].name_of(fact["nearest"]),
            **{key: fact[key] for key in ("space", "calibrated", "near_duplicate")},
        }
        for who in measured.facts
        for fact in measured.facts[who]
    ]
    record = {"images": n, "training_images": measured.training, "figures": measured.figures}
    write(command.out, asked, record, page, facts)


def measure_tokens(command: Tokens) -> None:
    """`python -m imagegram.metrics tokens`: measure, and write the page."""
    decode = own_tokens.decoder_named(command.decode) if command.decode else None
    Artifact(command.out, "measured").claim()
    given = own_tokens.read_given(command)
    index, samples, held_out = given.index, given.samples, given.held_out
    asked = {
        "index": index.identity,
        "samplers": list(command.samplers),
        "seed": command.seed,
        "samples": hashlib.sha256(samples.tobytes()).hexdigest()[:16],
        "held_out": hashlib.sha256(held_out.tobytes()).hexdigest()[:16],
        "decode": command.decode,
        "version": FIGURES_VERSION,
    }
    if finished(command.out, asked):
        return
    measured = own_tokens.measure_tokens(given, command.samplers, command.seed)
    columns = {"generated": f"{len(samples)} of these"}
    if len(held_out):
        columns["held_out"] = f"{len(held_out)} held-out real"
    known = (*registry.METRICS, *registry.OTHERS)
    metrics = [metric for metric in known if metric.key not in SAMPLER_KEYS]
    asked_of = [BY_KEY[key] for key in ("sample_bits", *SAMPLER_KEYS)]
    by_sampler = {name: name for name in command.samplers}
    bits = "bits a token, of counts over the training sequences"
    page = Page(
        f"{command.samples.name} against its training sequences",
        own_tokens.answer(measured.figures, measured.facts),
        f"{len(samples)} sequences of {samples.shape[1]} tokens beside {len(held_out)} held-out "
        f"real ones; both are compared with {index.num_images:,} training sequences.",
        [
            table("tokens", metrics, measured.figures, columns),
            table(bits, asked_of, measured.bits, by_sampler),
        ],
        [_token_gallery(given, measured, decode)],
        f"index {index.identity}",
    )
    keys = ("kind", "differs", "longest_run", "nearest")
    facts = [
        {"sequence": i} | {key: fact[key] for key in keys} for i, fact in enumerate(measured.facts)
    ]
    save_array(command.out / "sources.npy", measured.sources)
    write(command.out, asked, {"figures": measured.figures, "bits": measured.bits}, page, facts)


def _token_gallery(
    given: own_tokens.Given, measured: own_tokens.Measured, decode: own_tokens.Decode | None
) -> Gallery:
    """The most copied sequences, each token in the colour of the training image that it came from;
    with pictures where they can be decoded."""
    differs = [fact["differs"] for fact in measured.facts]
    order = np.argsort(differs, kind="stable")[: SHOWN["generated"]].tolist()
    origins = map(tuple, given.index.images[:, :2].tolist())
    rows_of = {place: row for row, place in enumerate(origins)}
    title = "Nearest to a training sequence first"
    gallery = Gallery(title, TOKENS_NOTE)
    for i in order:
        fact = measured.facts[i]
        rows, places = measured.sources[i].T
        colours = colours_of(np.stack([np.zeros_like(rows), rows, places], 1))[None]
        in_place = places == np.arange(len(places))
        gallery.bars.append(bars(colours, in_place[None], PALETTE))
        gallery.captions.append(
            f"sequence {i}: {KIND_NAMES[fact['kind']]}; {fact['differs']} of {len(rows)} tokens "
            f"differ from training row {fact['nearest'][1]}; the longest run has "
            f"{fact['longest_run']}; images that it came from: {len(np.unique(rows[rows >= 0]))}"
        )
    if decode:
        nearest = [rows_of[tuple(measured.facts[i]["nearest"])] for i in order]
        shown = []
        for tokens in (given.samples[order], given.index.tokens[nearest]):
            pictures = torch.from_numpy(own_tokens.decoded(decode, tokens))
            shown.append([small(as_picture(picture)) for picture in pictures])
        gallery.note = f"Left the picture, right its nearest training sequence. {TOKENS_NOTE}"
        gallery.show("tokens", *shown)
    return gallery


def _gallery(measured: instrument.Measured, who: str) -> Gallery:
    """The most suspicious pictures of a set beside their nearest training images."""
    mine, training = measured.datasets[who], measured.datasets["training"]
    gallery = Gallery(*PICTURES[who])
    facts = measured.facts[who][: SHOWN[who]]
    for fact in facts:
        gallery.captions.append(
            f"{mine.name_of(fact['ordinal'])}; nearest: {training.name_of(fact['nearest'])}; "
            f"calibrated distance {fact['calibrated']:.2f} in {fact['space']}"
            + "; near-duplicate"
            * fact["near_duplicate"]
        )
    gallery.show(
        who,
        [_thumbnail(mine, fact["ordinal"]) for fact in facts],
        [_thumbnail(training, fact["nearest"]) for fact in facts],
    )
    return gallery


def _thumbnail(dataset: ImageDataset, ordinal: int) -> Image.Image:
    """One picture, SIDE pixels."""
    picture, _ = dataset.read(ordinal)
    small = as_picture(preprocess(picture, min(SIDE, *picture.size)))
    return small if small.width == SIDE else small.resize((SIDE, SIDE), Image.Resampling.NEAREST)
