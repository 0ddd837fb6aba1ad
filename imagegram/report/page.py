"""The page: one HTML file with the answer, the pictures, where their tokens came from, and the figures."""

import csv
import io
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from PIL import Image
from tqdm import tqdm

from imagegram.codec.familiarity import warning_of
from imagegram.files import atomic, read_json
from imagegram.index.folder import Index
from imagegram.metrics.coherence import LEAST
from imagegram.metrics.held_out import Control
from imagegram.report.answer import answer, remarks
from imagegram.report.frontier import frontier
from imagegram.report.pictures import Wall, read_wall, shares
from imagegram.report.record import HELD_OUT, STEPS, Night
from imagegram.report.thumbnails import Gallery, Labels, Originals, Place, bars, sheet, small
from imagegram.report.verdict import COLUMNS, Run, best_of
from imagegram.samplers import SAMPLERS

BEFORE = "report-before.html"  # the page of the last night that had pictures, where the next one stopped early
WALL_COLUMNS = 8  # pictures in a row of a sheet, whatever the page shows in a row
GALLERY_COLUMNS = 32
STITCHED = 3  # pictures whose sources are shown without pointing at them
MOST_SOURCES = 6  # of each
RECONSTRUCTED = 12  # real images beside what the codec keeps of them
NOVELTY_LENGTHS = (1, 2, 3, 4, 6, 8, 12, 16, 32, 64, 128, 256)  # of n-grams in the table

# A token whose source gave no other, eight sources that gave several, the rest of these, given tokens. Each can be told
# from a light and from a dark page: a contrast of 3 to both.
PALETTE = (
    "#80858d",
    "#d64545",
    "#2f7fd6",
    "#b8690b",
    "#2a8f4f",
    "#9a5fd0",
    "#0f8a94",
    "#c74a9b",
    "#7a7f1e",
    "#6b7280",
    "#78716c",
)

REAL = ("nearest", "nearest_in_codes", "given")  # what pictures.json says of real images, by their places

KINDS = {
    "exact_copies": ("exact copy", "every token equals that of one training image, at the same place"),
    "shifted_copies": ("shifted copy", "half the tokens or more in one run from a training image, at another place"),
    "mosaics": ("mosaic", "half the tokens or more lie in runs of at least four tokens copied from training images"),
    "novel": ("novel", "none of these"),
}


@dataclass
class Sources:
    """What a page is made from."""

    out: Path
    night: Night
    index: Index
    control: Control
    originals: Originals


def write_page(sources: Sources) -> Path:
    """Write report.html into the folder of the night, from what is finished in it; returns its place."""
    path = render("page.html.j2", sources.out / "report.html", **_content(sources))
    (sources.out / BEFORE).unlink(missing_ok=True)
    return path


def write_stopped_page(out: Path, night: Night) -> Path:
    """Write a report.html that says why no sampler could be run; an earlier page with pictures is kept beside it."""
    page = out / "report.html"
    if page.exists() and not (out / BEFORE).exists() and any((out / "generated").glob("*/report.json")):
        page.rename(out / BEFORE)
    before = BEFORE if (out / BEFORE).exists() else ""
    return render("stopped.html.j2", page, night=night, before=before)


def render(template: str, path: Path, **content: Any) -> Path:
    """Write a page from its template."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    with atomic(path) as temporary:
        temporary.write_text(environment.get_template(template).render(palette=PALETTE, **content))
    return path


def _content(sources: Sources) -> dict[str, Any]:
    """Everything that the template names."""
    night = sources.night
    out = sources.out
    runs, control = read_runs(out, night)
    best = best_of(runs)

    # 1) The walls, the best one first, the held-out images last.
    shown = sorted((run.name for run in runs), key=lambda name: best is not None and name != best.name)
    shown = [name for name in shown if _has_pictures(night.folder(out, name))]
    bar = tqdm(shown, desc="reading the pictures of the page", unit="sampler", delay=3)
    walls = [read_wall(name, night.folder(out, name)) for name in bar]
    held_out = night.folder(out, HELD_OUT)
    if _has_pictures(held_out):
        walls.append(read_wall(HELD_OUT, held_out, drawn=False))

    # 2) The real images that they refer to.
    gallery = Gallery(_uses(walls), sources.originals, Labels(sources.index, sources.control))
    manifests = [folder.manifest for folder in sources.originals.folders]

    return {
        "out": out,
        "night": night,
        "manifests": manifests,
        "names": short_names([manifest.dataset.name for manifest in manifests]),
        "index": sources.index,
        "num_held_out": len(sources.control.tokens),
        "answer": answer(runs, control, night.sequences),
        "warnings": [line for folder in sources.originals.folders if (line := warning_of(folder.path))],
        "remarks": remarks(runs, len(sources.control.tokens), LEAST),
        "unfinished": [n for n in night.samplers if n not in {*night.failed, *night.skipped, *(r.name for r in runs)}],
        "runs": runs,
        "best": best,
        "control": control,
        "columns": [c for c in COLUMNS if any(c.key in figures for figures in (control, *(r.figures for r in runs)))],
        "walls": [_wall(wall, out, night) for wall in tqdm(walls, desc="writing the page", unit="sampler", delay=3)],
        "by_name": {run.name: run for run in runs},
        "frontier": frontier(runs),
        "novelty_lengths": [n for n in NOVELTY_LENGTHS if n <= sources.index.tokens_per_image],
        "reconstructions": _reconstructions(walls, sources.originals),
        "stitched": _stitched(walls, gallery) if walls and walls[0].drawn else [],
        "kinds": _kinds(walls, gallery),
        "kinds_by_key": {key: name for key, (name, _) in KINDS.items()},
        "methods": list(SAMPLERS),
        "novelty_rows": [(run.name, run.figures) for run in runs],
        "gallery": {
            "url": sheet(gallery.thumbnails, GALLERY_COLUMNS),
            "columns": GALLERY_COLUMNS,
            "rows": max(1, -(-len(gallery.thumbnails) // GALLERY_COLUMNS)),
            "count": len(gallery.thumbnails),
        },
        "data": _data(walls, gallery, manifests),
        "csv": _csv(runs, control),
        "seconds": _seconds(sources),
    }


def read_runs(out: Path, night: Night) -> tuple[list[Run], dict[str, Any]]:
    """The finished samplers of a night, and the figures of its held-out images."""
    runs = []
    control: dict[str, Any] = {}
    for name in night.finished(out):
        report = read_json(night.folder(out, name) / "report.json")
        runs.append(Run(name, night.draw(name), night.folder(out, name), report["generated"]))
        control = report.get("held_out", {})
    return runs, control


def _has_pictures(folder: Path) -> bool:
    return (folder / "report.json").exists() and (folder / "pictures.json").exists()


def _uses(walls: list[Wall]) -> Counter[Place]:
    """How often the page refers to each real image; nearest images and held-out ones before sources of tokens."""
    uses: Counter[Place] = Counter()
    for wall in walls:
        for row, fact in zip(wall.sources, wall.facts, strict=True):
            for key in REAL:
                if key in fact:
                    uses[tuple(fact[key])] += len(row)
            for place, count in shares(row):
                uses[place] += count
    return uses


def _wall(wall: Wall, out: Path, night: Night) -> dict[str, Any]:
    """What the template needs of a wall."""
    pictures = [small(picture) for picture in wall.pictures]
    lengths = sorted({length for prefixes in wall.prefixes.values() for length in prefixes})
    numbers = sorted(i for i in wall.prefixes if i < len(pictures))
    blank = Image.new("RGB", pictures[0].size)
    return {
        "name": wall.name,
        "drawn": wall.drawn,
        "url": sheet(pictures, WALL_COLUMNS),
        "bars": bars(wall.colours, wall.copied, PALETTE),
        "columns": WALL_COLUMNS,
        "rows": -(-len(pictures) // WALL_COLUMNS),
        "count": len(pictures),
        "folder": night.folder(out, wall.name).relative_to(out).as_posix(),
        "facts": wall.facts,
        "prefixes": {
            "lengths": lengths,
            "pictures": len(numbers),
            "url": sheet([small(wall.prefixes[i].get(k, blank)) for i in numbers for k in lengths], len(lengths))
            if numbers
            else "",
        },
    }


def _reconstructions(walls: list[Wall], originals: Originals) -> dict[str, Any]:
    """Held-out images beside what the codec makes of their tokens, and the mean error over all of the wall."""
    held_out = next((wall for wall in walls if not wall.drawn), None)
    if held_out is None:
        return {}
    real = [originals.picture((int(row[0, 0]), int(row[0, 1]))) for row in held_out.sources]
    pairs = [(a, b) for a, b in zip(real, held_out.pictures, strict=True) if a is not None]
    if not pairs:
        return {}
    errors = [np.square(np.asarray(a, float) - np.asarray(b, float)).mean() for a, b in pairs]
    few = pairs[:RECONSTRUCTED]
    return {
        "url": sheet([small(picture) for pair in zip(*few, strict=True) for picture in pair], len(few)),
        "count": len(few),
        "of": len(pairs),
        "root_mean_square": float(np.sqrt(np.mean(errors)) / 255),
    }


def _stitched(walls: list[Wall], gallery: Gallery) -> list[dict[str, Any]]:
    """The sources of the first pictures of the first wall, most tokens first."""
    rows = []
    for i, sources in enumerate(walls[0].sources[:STITCHED]):
        parts = shares(sources)
        rows.append(
            {
                "picture": i,
                "parts": [(gallery.numbers[place], count) for place, count in parts[:MOST_SOURCES]],
                "others": len(parts) - MOST_SOURCES,
            }
        )
    return rows


def _kinds(walls: list[Wall], gallery: Gallery) -> list[dict[str, Any]]:
    """Each kind of picture with its definition and the first example on the walls."""
    rows = []
    for key, (name, definition) in KINDS.items():
        found = [(w, i) for w, wall in enumerate(walls) for i in range(len(wall.facts)) if wall.kind(i) == key]
        drawn = [(w, i) for w, i in found if walls[w].drawn]
        row: dict[str, Any] = {"name": name, "definition": definition, "example": None}
        if drawn:
            w, i = drawn[0]
            row |= {"example": drawn[0], "nearest": gallery.numbers[tuple(walls[w].facts[i]["nearest"])]}
        rows.append(row)
    return rows


def short_names(datasets: list[str]) -> list[str]:
    """Names of data sets for captions: of paths the last part, where that tells them apart."""
    last = [Path(name).name or name for name in datasets]
    return last if len(set(last)) == len(set(datasets)) else datasets


def _data(walls: list[Wall], gallery: Gallery, manifests: list[Any]) -> str:
    """What the script of the page reads: every token's source, as JSON that may stand in HTML."""
    names = short_names([m.dataset.name for m in manifests])
    data = {
        "datasets": [{"name": n, "classes": list(m.class_names)} for n, m in zip(names, manifests, strict=True)],
        "images": [[*place, label] for place, label in zip(gallery.places, gallery.labels, strict=True)],
        "thumbnails": len(gallery.thumbnails),
        "kinds": {key: name for key, (name, _) in KINDS.items()},
        "walls": {wall.name: _wall_data(wall, gallery) for wall in walls},
    }
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")


def _wall_data(wall: Wall, gallery: Gallery) -> dict[str, Any]:
    pictures = []
    for row, fact, colours in zip(wall.sources, wall.facts, wall.colours, strict=True):
        numbers = [gallery.numbers[int(a), int(b)] if b >= 0 else -1 for a, b, _ in row]
        picture = {"colours": "".join(f"{colour:x}" for colour in colours), "sources": numbers} | fact
        picture |= {key: gallery.numbers[tuple(fact[key])] for key in REAL if key in fact}
        if (row[:, 2] != np.arange(len(row))).any():
            picture["positions"] = row[:, 2].tolist()
        pictures.append(picture)
    return {
        "drawn": wall.drawn,
        "pictures": pictures,
        "prefixed": sorted(i for i in wall.prefixes if i < len(pictures)),
        "lengths": sorted({length for prefixes in wall.prefixes.values() for length in prefixes}),
    }


def _seconds(sources: Sources) -> dict[str, float]:
    """How long every step took when it was done, which need not be in the last go of the night."""
    night = sources.night
    info = sources.index.info
    found = {f"tokenizing {folder.manifest.dataset.name}": folder.seconds() for folder in sources.originals.folders}
    found["building the index"] = info["seconds"] + info["verify_seconds"]
    for name, seconds in night.seconds.items():
        if name in (*night.samplers, *STEPS, HELD_OUT):  # and not of a sampler that this night leaves out
            found[name] = seconds
    return found


def _csv(runs: list[Run], control: dict[str, Any]) -> str:
    """Every figure with its interval, as a table of values separated by commas."""
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(["sampler", "settings", "figure", "value", "low", "high"])
    for name, settings, figures in [("held-out", "", control), *((r.name, r.settings, r.figures) for r in runs)]:
        for key, figure in figures.items():
            if isinstance(figure, dict) and {"value", "low", "high"} <= set(figure):
                writer.writerow([name, settings, key, figure["value"], figure["low"], figure["high"]])
    return table.getvalue()
