"""The page: one HTML file with the answer, the pictures, where their tokens came from, and the figures."""

import csv
import io
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

from imagegram.codec.familiarity import warning_of
from imagegram.files import atomic, read_json
from imagegram.index.folder import Index
from imagegram.metrics import rule
from imagegram.metrics.fidelity import read_fidelity
from imagegram.metrics.held_out import HeldOut
from imagegram.metrics.intervals import Figure, from_json
from imagegram.metrics.registry import COLUMNS, Figures
from imagegram.report.frontier import frontier
from imagegram.report.pictures import PALETTE, Gallery, Labels, Originals, Place, Wall, bars, read_wall, sheet, small
from imagegram.report.record import HELD_OUT, STEPS, Night
from imagegram.report.sheets import shares
from imagegram.report.verdict import Run, answer, best_of, remarks

BEFORE = "report-before.html"  # the page of the last night that had pictures, where the next one stopped early
WALL_COLUMNS = 8  # pictures in a row of a sheet, whatever the page shows in a row
GALLERY_COLUMNS = 32
STITCHED = 3  # pictures whose sources are shown without pointing at them
MOST_SOURCES = 6  # of each
RECONSTRUCTED = 12  # real images beside what the codec keeps of them
NOVELTY_LENGTHS = (1, 2, 3, 4, 6, 8, 12, 16, 32, 64, 128, 256)  # of n-grams in the table

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
    held_out: HeldOut
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
    environment.filters["without_folders"] = without_folders
    with atomic(path) as temporary:
        temporary.write_text(environment.get_template(template).render(palette=PALETTE, **content))
    return path


def _content(sources: Sources) -> dict[str, Any]:
    """Everything that the template names."""
    night = sources.night
    out = sources.out
    runs, real = read_runs(out, night)
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
    gallery = Gallery(_uses(walls), sources.originals, Labels(sources.index, sources.held_out))
    manifests = [folder.manifest for folder in sources.originals.folders]

    return {
        "out": out,
        "night": night,
        "manifests": manifests,
        "names": short_names([manifest.dataset.name for manifest in manifests]),
        "index": sources.index,
        "num_held_out": len(sources.held_out.tokens),
        "answer": answer(runs, night.sequences),
        "fidelity": read_fidelity(sources.index),
        "warnings": [line for folder in sources.originals.folders if (line := warning_of(folder.path))],
        "remarks": remarks(runs, len(sources.held_out.tokens)),
        "unfinished": [n for n in night.samplers if n not in {*night.failed, *night.skipped, *(r.name for r in runs)}],
        "runs": runs,
        "best": best.name if best and rule.is_like_real_images(best.figures) else "",
        "real": real,
        "columns": [
            c for c in COLUMNS if any(c.cell(figures)[0] != "-" for figures in (real, *(r.figures for r in runs)))
        ],
        "walls": [_wall(wall, out, night) for wall in tqdm(walls, desc="writing the page", unit="sampler", delay=3)],
        "by_name": {run.name: run for run in runs},
        "frontier": frontier(runs),
        "novelty_lengths": [n for n in NOVELTY_LENGTHS if n <= sources.index.tokens_per_image],
        "reconstructions": _reconstructions(walls, sources.originals),
        "stitched": _stitched(walls, gallery) if walls and walls[0].drawn else [],
        "kinds": _kinds(walls, gallery),
        "kinds_by_key": {key: name for key, (name, _) in KINDS.items()},
        "novelty_rows": [(run.name, run.figures) for run in runs],
        "gallery": {
            "url": sheet(gallery.thumbnails, GALLERY_COLUMNS),
            "columns": GALLERY_COLUMNS,
            "rows": max(1, -(-len(gallery.thumbnails) // GALLERY_COLUMNS)),
            "count": len(gallery.thumbnails),
        },
        "data": _data(walls, gallery, manifests),
        "csv": _csv(runs, real),
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
            for place, count in shares(row[:, :2]):
                uses[place] += count
    return uses


def _is_rebuilt(wall: Wall) -> bool:
    """Whether the nearest training image of every picture is there as the codec rebuilds it."""
    return bool(wall.nearest) and len(wall.nearest) == len(wall.pictures)


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
        "nearest": sheet([small(picture) for picture in wall.nearest], WALL_COLUMNS) if _is_rebuilt(wall) else "",
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
        "error": float(np.mean(np.sqrt(errors))),
    }


def _stitched(walls: list[Wall], gallery: Gallery) -> list[dict[str, Any]]:
    """The sources of the first pictures of the first wall, most tokens first."""
    rows = []
    for i, sources in enumerate(walls[0].sources[:STITCHED]):
        parts = shares(sources[:, :2])
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
    """Names of data sets for captions: of paths as many of the last parts as tell them apart.

    >>> short_names(["/home/me/cats/train", "/home/me/dogs/train"])
    ['cats/train', 'dogs/train']
    """
    parts = [Path(name).parts for name in datasets]
    for length in range(1, max(map(len, parts), default=1) + 1):
        names = ["/".join(each[-length:]) or name for each, name in zip(parts, datasets, strict=True)]
        if len(set(names)) == len(set(datasets)):
            break
    return names


def without_folders(text: str) -> str:
    """Text whose absolute paths are cut to their last part: a page that is shared names no user and no machine.

    >>> without_folders("overnight_run.py --dataset /home/me/cats --out=/tmp/a/b and/or https://x.org/y/z")
    'overnight_run.py --dataset .../cats --out=.../b and/or https://x.org/y/z'
    """
    return re.sub(r"(?<![\w./:~])/(?:[^\s/'\"<>;,]+/)+([^\s/'\"<>;,]*)", r".../\1", text)


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
        "rebuilt": _is_rebuilt(wall),
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


def _csv(runs: list[Run], real: Figures) -> str:
    """Every figure with its interval, as a table of values separated by commas."""
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(["sampler", "settings", "figure", "value", "low", "high"])
    for name, settings, figures in [("held-out", "", real), *((r.name, r.settings, r.figures) for r in runs)]:
        for key, figure in figures.items():
            if isinstance(figure, Figure):
                writer.writerow([name, settings, key, figure.value, figure.low, figure.high])
    return table.getvalue()
