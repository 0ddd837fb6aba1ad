"""The page: one HTML file with the answer, the pictures, their tokens' origins, the figures."""

import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from PIL import Image
from tqdm import tqdm

from imagegram.artifact import Artifact
from imagegram.codec.familiarity import warning_of
from imagegram.data.wording import printable
from imagegram.files import atomic, read_json
from imagegram.index.folder import Index
from imagegram.manifest import Manifest
from imagegram.metrics import rule
from imagegram.metrics.fidelity import read_fidelity
from imagegram.metrics.held_out import HeldOut
from imagegram.metrics.intervals import from_json
from imagegram.metrics.registry import COLUMNS, Figures
from imagegram.report.frontier import frontier, tables
from imagegram.report.pictures import (
    PALETTE,
    Gallery,
    Originals,
    Place,
    RealImages,
    bars,
    read_gallery,
    sheet,
    small,
)
from imagegram.report.record import HELD_OUT, STEPS, Night
from imagegram.report.sheets import shares
from imagegram.report.verdict import Run, answer, best_of, remarks

GALLERY_COLUMNS = 8  # pictures in a row of a sheet, whatever the page shows in a row
REAL_COLUMNS = 32
STITCHED = 3  # pictures whose sources are shown without pointing at them
MOST_SOURCES = 6  # of each
RECONSTRUCTED = 12  # real images beside what the codec keeps of them
NOVELTY_LENGTHS = (1, 2, 3, 4, 6, 8, 12, 16, 32, 64, 128, 256)  # of n-grams in the table

REAL = ("nearest", "nearest_in_codes", "given")  # places of real images in pictures.json
KINDS = {
    "exact_copies": "every token equals that of one training image, at the same place",
    "shifted_copies": "half the tokens or more in one run from a training image, at another place",
    "mosaics": (
        "half the tokens or more lie in runs of at least four tokens copied from training images"
    ),
    "novel": "none of these",
}
KIND_NAMES = dict(zip(KINDS, ("exact copy", "shifted copy", "mosaic", "novel"), strict=True))


@dataclass
class Sources:
    """What a page is made from."""

    out: Path
    night: Night
    index: Index
    held_out: HeldOut
    originals: Originals


def write_page(sources: Sources) -> Path:
    """Write report.html and figures/ of a night from what is finished; returns the page's place."""
    content = _content(sources)
    Artifact(sources.out / "figures", "figures").mark()
    for name, text in content["files"].items():
        with atomic(sources.out / "figures" / name) as temporary:
            temporary.write_text(text)
    return render("page.html.j2", sources.out / "report.html", **content)


def write_stopped_page(out: Path, night: Night) -> Path:
    """Write a report.html that says why no sampler could be run, in place of an earlier one."""
    return render("stopped.html.j2", out / "report.html", night=night)


def render(template: str, path: Path, **content: Any) -> Path:
    """Write a page from its template."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["without_folders"] = without_folders
    with atomic(path) as temporary:
        text = environment.get_template(template).render(palette=PALETTE, **content)
        # Names that are no text in the locale keep their bytes.
        temporary.write_text(text, encoding="utf-8", errors="surrogateescape")
    return path


def _content(sources: Sources) -> dict[str, Any]:
    """Everything that the template names."""
    night, out, originals = sources.night, sources.out, sources.originals
    num_held_out = len(sources.held_out.tokens)
    runs, real = read_runs(out, night)
    best = best_of(runs)
    best_first = sorted(runs, key=lambda run: run is not best)
    galleries = _galleries(out, night, [run.name for run in best_first])
    real_images = RealImages(_uses(galleries), originals, sources.index, sources.held_out)
    manifests = [folder.manifest for folder in originals.folders]
    names = short_names([manifest.dataset.name for manifest in manifests])
    by_name = {run.name: run for run in runs}
    begun = {*night.failed, *night.skipped, *by_name}
    measured = [real, *(run.figures for run in runs)]
    files = tables(runs, real)
    if plot := frontier(runs):
        files["frontier.svg"] = plot.decode()
    shown = tqdm(galleries, desc="writing the page", unit="sampler", delay=3)
    return {
        "out": out,
        "night": night,
        "manifests": manifests,
        "names": names,
        "index": sources.index,
        "num_held_out": num_held_out,
        "answer": answer(runs, night.sequences, held_out=num_held_out),
        "fidelity": read_fidelity(sources.index),
        "warnings": [line for each in originals.folders if (line := warning_of(each.path))],
        "remarks": remarks(runs, num_held_out),
        "unfinished": [name for name in night.samplers if name not in begun],
        "runs": runs,
        "best": best.name if best and rule.is_like_real_images(best.figures) else "",
        "real": real,
        "columns": [c for c in COLUMNS if any(c.cell(each)[0] != "-" for each in measured)],
        "galleries": [_gallery(gallery, night.folder(out, gallery.name), out) for gallery in shown],
        "by_name": by_name,
        "files": files,
        "novelty_lengths": [n for n in NOVELTY_LENGTHS if n <= sources.index.tokens_per_image],
        "reconstructions": _reconstructions(galleries, originals),
        "stitched": _stitched(galleries, real_images),
        "kinds": _kinds(galleries, real_images),
        "kinds_by_key": KIND_NAMES,
        "real_images": _thumbnails(real_images),
        "data": _data(galleries, real_images, list(zip(names, manifests, strict=True))),
        "seconds": _seconds(sources),
    }


def read_runs(out: Path, night: Night) -> tuple[list[Run], Figures]:
    """The finished samplers of a night, and the figures of its held-out images."""
    runs = []
    real: Figures = {}
    for name in night.finished(out):
        report = from_json(read_json(night.folder(out, name) / "report.json"))
        runs.append(Run(name, night.draw(name), night.folder(out, name), report["generated"]))
        real = report.get("held_out", {})
    return runs, real


def _galleries(out: Path, night: Night, names: list[str]) -> list[Gallery]:
    """The pictures of samplers, in this order, and of held-out images, where there are any."""
    folders = {name: night.folder(out, name) for name in [*names, HELD_OUT]}
    files = ("report.json", "pictures.json")
    there = [name for name in folders if all((folders[name] / file).exists() for file in files)]
    bar = tqdm(there, desc="reading the pictures of the page", unit="sampler", delay=3)
    return [read_gallery(name, folders[name], drawn=name != HELD_OUT) for name in bar]


def _thumbnails(real_images: RealImages) -> dict[str, Any]:
    """What the template needs of the real images."""
    pictures = real_images.thumbnails
    rows = max(1, -(-len(pictures) // REAL_COLUMNS))
    url = sheet(pictures, REAL_COLUMNS)
    return {"url": url, "columns": REAL_COLUMNS, "rows": rows, "count": len(pictures)}


def _uses(galleries: list[Gallery]) -> Counter[Place]:
    """How often the page refers to each real image; nearest and held-out ones before sources."""
    uses: Counter[Place] = Counter()
    for gallery in galleries:
        for row, fact in zip(gallery.sources, gallery.facts, strict=True):
            for key in REAL:
                if key in fact:
                    uses[tuple(fact[key])] += len(row)
            for place, count in shares(row[:, :2]):
                uses[place] += count
    return uses


def _gallery(gallery: Gallery, folder: Path, out: Path) -> dict[str, Any]:
    """What the template needs of a gallery, whose files are in `folder`."""
    pictures = [small(picture) for picture in gallery.pictures]
    nearest = [small(picture) for picture in gallery.nearest]
    lengths = gallery.prefix_lengths
    blank = Image.new("RGB", pictures[0].size)
    prefixes = [small(gallery.prefixes[i].get(k, blank)) for i in gallery.prefixed for k in lengths]
    return {
        "name": gallery.name,
        "drawn": gallery.drawn,
        "url": sheet(pictures, GALLERY_COLUMNS),
        "nearest": sheet(nearest, GALLERY_COLUMNS) if gallery.is_rebuilt else "",
        "bars": bars(gallery.colours, gallery.copied, PALETTE),
        "columns": GALLERY_COLUMNS,
        "rows": -(-len(pictures) // GALLERY_COLUMNS),
        "count": len(pictures),
        "folder": folder.relative_to(out).as_posix(),
        "facts": gallery.facts,
        "prefixes": {
            "lengths": lengths,
            "pictures": len(gallery.prefixed),
            "url": sheet(prefixes, len(lengths)) if prefixes else "",
        },
    }


def _reconstructions(galleries: list[Gallery], originals: Originals) -> dict[str, Any]:
    """Held-out images beside what the codec makes of their tokens."""
    held_out = next((gallery for gallery in galleries if not gallery.drawn), None)
    if held_out is None:
        return {}
    real = [originals.picture(tuple(row[0, :2].tolist())) for row in held_out.sources]
    pairs = [pair for pair in zip(real, held_out.pictures, strict=True) if pair[0]][:RECONSTRUCTED]
    if not pairs:
        return {}
    shown = [picture and small(picture) for line in zip(*pairs, strict=True) for picture in line]
    return {"url": sheet(shown, len(pairs)), "count": len(pairs)}


def _stitched(galleries: list[Gallery], real_images: RealImages) -> list[dict[str, Any]]:
    """The sources of the first pictures that were drawn, most tokens first."""
    rows = []
    drawn = next((gallery.sources[:STITCHED] for gallery in galleries if gallery.drawn), ())
    for i, sources in enumerate(drawn):
        parts = shares(sources[:, :2])
        shown = [(real_images.numbers[place], count) for place, count in parts[:MOST_SOURCES]]
        rows.append({"picture": i, "parts": shown, "others": len(parts) - MOST_SOURCES})
    return rows


def _kinds(galleries: list[Gallery], real_images: RealImages) -> list[dict[str, Any]]:
    """Each kind of picture with its definition and the first generated example."""
    examples: dict[str, dict[str, Any]] = {}
    for w, gallery in enumerate(galleries):
        for i, fact in enumerate(gallery.facts if gallery.drawn else []):
            nearest = real_images.numbers[tuple(fact["nearest"])]
            examples.setdefault(fact["kind"], {"example": (w, i), "nearest": nearest})
    return [
        {"name": KIND_NAMES[key], "definition": definition, "example": None} | examples.get(key, {})
        for key, definition in KINDS.items()
    ]


def short_names(datasets: list[str]) -> list[str]:
    """Names of data sets for captions: of paths as many of the last parts as tell them apart.

    >>> short_names(["/home/me/cats/train", "/home/me/dogs/train"])
    ['cats/train', 'dogs/train']
    >>> short_names(["a/train", "a/train"])
    ['train', 'train']
    >>> short_names(["/data/of/mine/cats", "uoft-cs/cifar10", "."])
    ['cats', 'cifar10', '.']
    """
    parts = [Path(printable(name)).parts for name in datasets]
    for length in range(1, max(map(len, parts), default=1) + 1):
        told = zip(parts, datasets, strict=True)
        names = ["/".join(each[-length:]) or name for each, name in told]
        if len(set(names)) == len(set(datasets)):
            break
    return names


def without_folders(text: str) -> str:
    """Text whose absolute paths are cut to their last part: a page that is shared names no user and
    no machine.

    >>> without_folders("--codec /home/me/cats --out=/tmp/a/b and/or EPFL/x https://x.org/y/z")
    '--codec .../cats --out=.../b and/or EPFL/x https://x.org/y/z'
    """
    return re.sub(r"(?<![\w./:~])/(?:[^\s/'\"<>;,]+/)+([^\s/'\"<>;,]*)", r".../\1", text)


def _data(
    galleries: list[Gallery], real_images: RealImages, named: list[tuple[str, Manifest]]
) -> str:
    """What the script of the page reads: every token's source, as JSON that may stand in HTML."""
    images = zip(real_images.places, real_images.labels, strict=True)
    data = {
        "datasets": [{"name": name, "classes": list(each.class_names)} for name, each in named],
        "images": [[*place, label] for place, label in images],
        "thumbnails": len(real_images.thumbnails),
        "kinds": KIND_NAMES,
        "galleries": {gallery.name: _gallery_data(gallery, real_images) for gallery in galleries},
    }
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")


def _gallery_data(gallery: Gallery, real_images: RealImages) -> dict[str, Any]:
    pictures = []
    for row, fact, colours in zip(gallery.sources, gallery.facts, gallery.colours, strict=True):
        picture = {
            "colours": "".join(f"{colour:x}" for colour in colours),
            "sources": [real_images.numbers[a, b] if b >= 0 else -1 for a, b, _ in row.tolist()],
        } | fact
        picture |= {key: real_images.numbers[tuple(fact[key])] for key in REAL if key in fact}
        if (row[:, 2] != np.arange(len(row))).any():
            picture["positions"] = row[:, 2].tolist()
        pictures.append(picture)
    return {
        "drawn": gallery.drawn,
        "rebuilt": gallery.is_rebuilt,
        "pictures": pictures,
        "prefixed": gallery.prefixed,
        "lengths": gallery.prefix_lengths,
    }


def _seconds(sources: Sources) -> dict[str, float]:
    """How long every step took when it was done, which need not be in the last go of the night."""
    night, info = sources.night, sources.index.info
    folders = sources.originals.folders
    found = {f"tokenizing {each.manifest.dataset.name}": each.seconds() for each in folders}
    found["building the index"] = info["seconds"] + info["verify_seconds"]
    steps = (*night.samplers, *STEPS, HELD_OUT)  # and not a sampler that this night leaves out
    return found | {name: seconds for name, seconds in night.seconds.items() if name in steps}
