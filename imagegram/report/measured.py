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
from imagegram.metrics import instrument, own_tokens
from imagegram.metrics.commands import Pictures, Tokens
from imagegram.metrics.intervals import Figure, to_json
from imagegram.metrics.registry import (
    BY_KEY,
    FIGURES_VERSION,
    METRICS,
    OTHERS,
    SAMPLE_BITS,
    SETS,
    Figures,
    Metric,
)
from imagegram.report.page import KINDS, render
from imagegram.report.pictures import PALETTE, SIDE, bars, colours_of, sheet, small
from imagegram.report.sheets import as_picture

SHOWN = 200  # generated pictures
CONTROL = 12  # held-out ones
COLUMNS = 8  # of a sheet
BITS = "bits a token, of counts over the training sequences"
# what samplers say of sequences
SAMPLER_KEYS = ("held_out_bits", "training_bits", "exact_copy_probability")


@dataclass
class Gallery:
    """Pictures beside others, or bars of tokens, each with its caption."""

    title: str
    note: str
    captions: list[str]
    sheets: list[dict[str, str]] = field(default_factory=list)
    bars: list[str] = field(default_factory=list)


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
        metrics = {
            row["metric"].key: row["metric"] for table in self.tables for row in table["rows"]
        }.values()
        command = "python -m imagegram.metrics " + shlex.join(sys.argv[1:])
        render(
            "measured.html.j2",
            path,
            columns=COLUMNS,
            metrics=metrics,
            command=command,
            **vars(self),
        )


def table(
    what: str, metrics: Sequence[Metric], figures: dict[str, Figures], columns: dict[str, str]
) -> dict[str, Any]:
    """Rows of the metrics that were measured, a column for each of `columns`: a key of `figures`
    and its title."""
    rows: list[dict[str, Any]] = []
    for metric in metrics:
        cells = [metric.cell(figures[who]) for who in columns]
        mine, real = (metric.of(figures.get(who, {})) for who in ("generated", "held_out"))
        # compared with held-out ones already
        real = real or (Figure.exactly(0.5) if metric.better == "0.5" else None)
        if any(text != "-" for text, _ in cells):
            rows.append(
                {
                    "metric": metric,
                    "cells": cells,
                    "beyond": mine and real and instrument.differs(mine, real),
                }
            )
    return {"what": what, "columns": list(columns.values()), "rows": rows}


def pairs(
    name: str, title: str, note: str, captions: list[str], shown: Sequence[tuple[Image.Image, ...]]
) -> Gallery:
    """A gallery of pictures beside their nearest training images."""
    sheets = []
    for which, label in enumerate((title, "the nearest training image")):
        url = sheet([pair[which] for pair in shown], COLUMNS)
        sheets.append({"name": f"{name}{which}", "url": url, "label": label})
    return Gallery(title, note, captions, sheets)


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
        print(
            f"\nIn {each['what']}\n{'':<20}"
            + "".join(f"{column:>32}" for column in each["columns"])
        )
        for row in each["rows"]:
            cells = [
                f"{text} ({interval})" if interval else text for text, interval in row["cells"]
            ]
            print(f"{row['metric'].title:<20}" + "".join(f"{cell:>32}" for cell in cells))
    summary(page=out / "report.html", figures=out / "figures.json", images=out / "images.csv")


def measure_pictures(command: Pictures) -> None:
    """`python -m imagegram.metrics pictures`: measure, and write the page."""
    if command.images < instrument.LEAST // 2 or command.size < 0:
        raise UserError(f"--images is at least {instrument.LEAST // 2}, and --size at least 0")
    datasets = instrument.open_sets(command)
    given = (command.features, command.training_features, command.held_out_features)
    asked: dict[str, Any] = {name: getattr(command, name) for name in ("size", "images", "seed")}
    asked["network"] = command.network and find_spec("efficientnet_lite_pytorch") is not None
    asked |= {
        who: [dataset.name, dataset.split, dataset.fingerprint] for who, dataset in datasets.items()
    }
    asked |= {
        "features": [sha256(path) for path in given if path and path.exists()],
        "version": FIGURES_VERSION,
    }
    if finished(command.out, asked):
        return
    measured = instrument.measure_pictures(command, datasets)
    n = measured.images
    names = {"generated": f"{n} of these", "held_out": f"{n} held-out real"}
    galleries = [_gallery(measured, who) for who in ("generated", "held_out")]
    how = (
        f"{n} pictures of {datasets['generated'].name} beside {n} held-out real ones; both are "
        f"compared with {n} other held-out ones, and with all {measured.training:,} distinct "
        "training images."
    )
    page = Page(
        f"{Path(datasets['generated'].name).name} against its training images",
        instrument.answer(measured),
        how,
        [
            table(instrument.SPACES[space], SETS, found, names)
            for space, found in measured.figures.items()
        ],
        galleries,
        "; ".join(
            f"{each.name}, {each.size} pictures, {each.fingerprint}" for each in datasets.values()
        ),
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
    asked: dict[str, Any] = {
        "index": given.index.identity,
        "samplers": list(command.samplers),
        "seed": command.seed,
    }
    hashes = {"samples": given.samples, "held_out": given.held_out}
    asked |= {
        name: hashlib.sha256(array.tobytes()).hexdigest()[:16] for name, array in hashes.items()
    }
    asked |= {"decode": command.decode, "version": FIGURES_VERSION}
    if finished(command.out, asked):
        return
    measured = own_tokens.measure_tokens(given, command.samplers, command.seed)
    index = given.index
    counts = {"generated": len(given.samples), "held_out": len(given.held_out)}
    names = {
        "generated": f"{counts['generated']} of these",
        "held_out": f"{counts['held_out']} held-out real",
    }
    names = {who: name for who, name in names.items() if counts[who]}
    metrics = [metric for metric in (*METRICS, *OTHERS) if metric.key not in SAMPLER_KEYS]
    by_sampler = {name: name for name in command.samplers}
    asked_of = [SAMPLE_BITS, *(BY_KEY[key] for key in SAMPLER_KEYS)]
    page = Page(
        f"{command.samples.name} against its training sequences",
        own_tokens.answer(measured.figures, measured.facts),
        f"{counts['generated']} sequences of {given.samples.shape[1]} tokens beside "
        f"{counts['held_out']} held-out real ones; both are compared with {index.num_images:,} "
        "training sequences.",
        [
            table("tokens", metrics, measured.figures, names),
            table(BITS, asked_of, measured.bits, by_sampler),
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
    order = sorted(range(len(measured.facts)), key=lambda i: (measured.facts[i]["differs"], i))[
        :SHOWN
    ]
    positions = np.arange(given.samples.shape[1])
    strips, captions, nearest = [], [], []
    for i in order:
        fact = measured.facts[i]
        rows, places = measured.sources[i].T
        colours = colours_of(np.stack([np.zeros_like(rows), rows, places], 1))[None]
        strips.append(bars(colours, (places == positions)[None], PALETTE))
        origins = given.index.images[:, :2]
        source, ordinal = fact["nearest"]
        nearest.append(int(np.flatnonzero((origins == (source, ordinal)).all(1))[0]))
        images = len(np.unique(rows[rows >= 0]))
        captions.append(
            f"sequence {i}: {KINDS[fact['kind']][0]}; {fact['differs']} of {len(rows)} tokens "
            f"differ from training row {ordinal}; the longest run has {fact['longest_run']}; "
            f"images that it came from: {images}"
        )
    title = "Nearest to a training sequence first"
    note = (
        "A cell for each token, a colour for each training image that gave several: the longest "
        "run first, then what goes on. Grey: an image that gave one token only. Half a cell: from "
        "another position. sources.npy has all."
    )
    if decode is None:
        return Gallery(title, note, captions, bars=strips)
    both = (
        own_tokens.decoded(decode, given.samples[order]),
        own_tokens.decoded(decode, given.index.tokens[nearest]),
    )
    shown = [
        tuple(small(as_picture(torch.from_numpy(one))) for one in pair)
        for pair in zip(*both, strict=True)
    ]
    gallery = pairs(
        "tokens",
        title,
        f"Left the picture, right its nearest training sequence. {note}",
        captions,
        shown,
    )
    gallery.bars = strips
    return gallery


def _gallery(measured: instrument.Measured, who: str) -> Gallery:
    """The most suspicious pictures of a set beside their nearest training images."""
    datasets = measured.datasets
    facts = measured.facts[who][: SHOWN if who == "generated" else CONTROL]
    shown = [
        (
            _thumbnail(datasets[who], fact["ordinal"]),
            _thumbnail(datasets["training"], fact["nearest"]),
        )
        for fact in facts
    ]
    captions = [
        f"{datasets[who].name_of(fact['ordinal'])}; nearest: "
        f"{datasets['training'].name_of(fact['nearest'])}; calibrated distance "
        f"{fact['calibrated']:.2f} in {fact['space']}"
        + ("; near-duplicate" if fact["near_duplicate"] else "")
        for fact in facts
    ]
    title = (
        "Nearest to a training image first"
        if who == "generated"
        else "The same of held-out real pictures"
    )
    note = (
        "Left the picture, right its nearest training image. The calibrated distance is that to "
        "the nearest training image over the mean of its 50 nearest: 0 is a copy."
        if who == "generated"
        else "How near real pictures come that nobody copied."
    )
    return pairs(who, title, note, captions, shown)


def _thumbnail(dataset: ImageDataset, ordinal: int) -> Image.Image:
    """One picture, SIDE pixels."""
    picture, _ = dataset.read(ordinal)
    small = as_picture(preprocess(picture, min(SIDE, *picture.size)))
    return small if small.width == SIDE else small.resize((SIDE, SIDE), Image.Resampling.NEAREST)
