"""Pictures and the page: contact sheets, where images came from, one self-contained HTML file."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from imagegram.files import atomic
from imagegram.sampling.settings import Settings

PAPER, INK, COPY = (255, 255, 255), (40, 40, 40), (214, 39, 40)
CELL = 96  # pixels: small images are enlarged to about this
GAP = 4  # pixels


def _pictures(images: Tensor) -> list[Image.Image]:
    """uint8 [n, 3, S, S] -> pictures, small ones enlarged by a whole factor without smoothing."""
    factor = max(1, CELL // images.shape[-1])
    side = images.shape[-1] * factor
    arrays = images.permute(0, 2, 3, 1).contiguous().numpy()
    return [Image.fromarray(a).resize((side, side), Image.Resampling.NEAREST) for a in arrays]


def save_images(images: Tensor, folder: Path) -> None:
    """Write uint8 [n, 3, S, S] as image_0000.png ... at their own size."""
    for i, array in enumerate(images.permute(0, 2, 3, 1).contiguous().numpy()):
        Image.fromarray(array).save(folder / f"image_{i:04d}.png")


def rows_of_images(rows: list[tuple[str, Tensor]], titles: Sequence[str] = ()) -> Image.Image:
    """One labelled row of images for each (label, uint8 [n, 3, S, S]), under the titles of the columns."""
    pictures = [(label, _pictures(images)) for label, images in rows]
    side, font = pictures[0][1][0].width, ImageFont.load_default(14)
    margin = 12 + max(int(font.getlength(label)) for label, _ in pictures)
    columns = max(len(p) for _, p in pictures)
    head = GAP + 18 * bool(titles)
    sheet = Image.new("RGB", (margin + columns * (side + GAP), len(rows) * (side + GAP) + head), PAPER)
    draw = ImageDraw.Draw(sheet)
    for c, title in enumerate(titles):
        draw.text((margin + c * (side + GAP) + side // 2, head - 4), title, INK, font, anchor="ms")
    for r, (label, line) in enumerate(pictures):
        top = head + r * (side + GAP)
        draw.text((margin - 6, top + side // 2), label, INK, font, anchor="rm")
        for c, picture in enumerate(line):
            sheet.paste(picture, (margin + c * (side + GAP), top))
    return sheet


def grid(generated: Tensor, nearest: Tensor, copies: NDArray[np.bool_], columns: int = 16) -> Image.Image:
    """Generated images uint8 [n, 3, S, S], each above its nearest training image; exact copies are framed in red."""
    above, below = _pictures(generated), _pictures(nearest)
    side = above[0].width
    columns = min(columns, len(above))
    rows = -(-len(above) // columns)
    width, height = side + 2 * GAP, 2 * side + 4 * GAP
    sheet = Image.new("RGB", (columns * width, rows * height), PAPER)
    draw = ImageDraw.Draw(sheet)
    for i, (top, bottom) in enumerate(zip(above, below, strict=True)):
        x, y = i % columns * width + GAP, i // columns * height + GAP
        if copies[i]:
            draw.rectangle((x - 3, y - 3, x + side + 2, y + 2 * side + 3), fill=COPY)
        sheet.paste(top, (x, y))
        sheet.paste(bottom, (x, y + side + 1))
    return sheet


def shares(sources: NDArray[np.int64]) -> list[tuple[int, float]]:
    """Training rows [k] that one image's tokens came from (-1: given), with their share of it, largest first."""
    rows, counts = np.unique(sources[sources >= 0], return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return [(int(rows[i]), float(counts[i]) / len(sources)) for i in order]


def provenance(
    generated: Tensor, originals: Tensor, parts: list[list[tuple[int, float]]], ordinals: NDArray[np.int64]
) -> Image.Image:
    """Each generated image beside the training images it was stitched from, with the share and the ordinal of each.

    generated: uint8 [n, 3, S, S]; parts: for each its (training row, share); originals: uint8, one for each of these;
    ordinals: of the training rows in their data sets.
    """
    font, left, right = ImageFont.load_default(13), _pictures(generated), iter(_pictures(originals))
    side, columns = left[0].width, max(map(len, parts))
    row, x0 = side + 40, side + 30
    sheet = Image.new("RGB", (x0 + columns * (side + GAP), row * len(left) + 22), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP, 3), "generated", INK, font)
    draw.text((x0, 3), "training images its tokens came from, and their share of the tokens", INK, font)
    for r, (picture, part) in enumerate(zip(left, parts, strict=True)):
        y = 22 + r * row
        sheet.paste(picture, (GAP, y))
        for c, (training_row, share) in enumerate(part):
            x = x0 + c * (side + GAP)
            sheet.paste(next(right), (x, y))
            caption = f"{share:.0%}\n#{ordinals[training_row]}"
            draw.multiline_text((x + side // 2, y + side + 3), caption, INK, font, anchor="ma", align="center")
    return sheet


def embedded(file: Path) -> str:
    """A picture as a data: URL, so that the page is one file."""
    return "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode()


@dataclass(frozen=True)
class Column:
    """A figure of report.json in the table of the page."""

    key: str
    title: str
    help: str
    percent: bool = False

    def cell(self, figures: dict[str, dict[str, float]]) -> tuple[str, str]:
        """The value and its interval, as text; dashes where the figure does not apply."""
        if self.key not in figures:
            return "-", ""
        value, low, high = (figures[self.key][k] * (100 if self.percent else 1) for k in ("value", "low", "high"))
        return (
            (f"{value:.1f} %", f"{low:.1f} to {high:.1f}")
            if self.percent
            else (f"{value:.2f}", f"{low:.2f} to {high:.2f}")
        )


COLUMNS = (
    Column("exact_copies", "exact copies", "share of sequences equal to a training sequence", percent=True),
    Column("shifted_copies", "shifted", "half the tokens or more copied in one run to another position", percent=True),
    Column("mosaics", "mosaics", "half the tokens or more in copied runs of at least four", percent=True),
    Column("novel", "novel", "none of these", percent=True),
    Column(
        "longest_run", "longest run", "mean longest run of tokens that stands in one training image, at any position"
    ),
    Column("nearest_distance", "nearest", "mean number of tokens that differ from the nearest training sequence"),
    Column(
        "closer_than_held_out",
        "P(closer)",
        "probability of lying closer to the training set than a held-out real image does; 0.5 is ideal, 1 a copier",
    ),
    Column(
        "coherence",
        "coherence",
        "judges' mean score of the decoded images, scaled so that held-out real images have 1 and images of "
        "independently drawn tokens 0",
    ),
    Column("density", "density", "how crowded with held-out real images the places of the generated ones are"),
    Column("coverage", "coverage", "share of held-out real images with a generated one near them"),
)


@dataclass
class Run:
    """A finished folder of generated images on the page."""

    name: str
    sampler: Settings
    path: Path
    figures: dict[str, Any]
    best: bool = False  # of its method

    @property
    def settings(self) -> str:
        return self.sampler.describe()

    @property
    def honest(self) -> bool:
        """Whether it copies no more than held-out real images do."""
        return self.figures["exact_copies"]["high"] <= 0.01 and self.figures["closer_than_held_out"]["value"] <= 0.65


def mark_best(runs: list[Run]) -> None:
    """Mark of each method the most coherent run that does not copy; where all do, the one that copies least."""
    for method in {run.sampler.method for run in runs}:
        alike = [run for run in runs if run.sampler.method == method]
        if honest := [run for run in alike if "closer_than_held_out" in run.figures and run.honest]:
            best = max(honest, key=lambda run: run.figures.get("coherence", {"value": 0})["value"])
        else:
            best = min(alike, key=lambda run: run.figures["exact_copies"]["value"])
        best.best = True


METHOD_COLORS = {"ntd": "tab:red", "aligned": "tab:blue", "smoothed": "tab:green", "soft": "tab:purple"}


def frontier(path: Path, runs: list[Run]) -> None:
    """Coherence against P(closer), with intervals: copiers are to the right, chaos is at the bottom; hollow where
    exact copies may be above 1 %."""
    from adjustText import adjust_text

    figure, axes = _axes(7.5, 5.2)
    axes.axvspan(0.4, 0.65, ymin=0, color="0.93", zorder=0)
    axes.axhline(0, color="0.6", lw=1, ls=":")
    axes.plot(0.5, 1, "*", color="black", ms=16)
    names = [axes.text(0.5, 1, "held-out real", fontsize=8, fontweight="bold")]
    for run in runs:
        x, y = run.figures["closer_than_held_out"], run.figures["coherence"]
        color, copies = METHOD_COLORS[run.sampler.method], run.figures["exact_copies"]["high"] > 0.01
        for horizontal, vertical in (
            ([x["low"], x["high"]], [y["value"]] * 2),
            ([x["value"]] * 2, [y["low"], y["high"]]),
        ):
            axes.plot(horizontal, vertical, color=color, lw=1)
        axes.plot(x["value"], y["value"], "o", color=color, mfc="white" if copies else color, ms=7)
        names.append(axes.text(x["value"], y["value"], run.name, fontsize=8))
    axes.set(
        xlabel="P(closer to the training set than a held-out image)",
        ylabel="coherence",
        xlim=(-0.02, 1.15),
    )
    figure.canvas.draw()
    figure.set_layout_engine("none")  # the layout stays as it was drawn
    adjust_text(names, ax=axes, expand=(1.25, 1.7), arrowprops={"arrowstyle": "-", "color": "0.6", "lw": 0.7})
    figure.savefig(path, dpi=110)


def novelty(path: Path, runs: list[Run], control: list[float]) -> None:
    """The n-novelty curves of `runs` and of the held-out images."""
    figure, axes = _axes(7.5, 3.6)
    axes.plot(range(1, len(control) + 1), control, "k--", lw=2, label="held-out real")
    styles = ("-", "--", ":", "-.")
    for run in runs:
        curve, alike = run.figures["novelty"], [r.name for r in runs if r.sampler.method == run.sampler.method]
        color, style = METHOD_COLORS[run.sampler.method], styles[alike.index(run.name) % len(styles)]
        axes.plot(range(1, len(curve) + 1), curve, style, color=color, lw=1.2, label=run.name)
    axes.set(xlabel="n", ylabel="share of n-grams not in the index", xlim=(1, len(control)))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8)
    figure.savefig(path, dpi=110)


def _axes(width: float, height: float) -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(width, height), layout="constrained")
    axes.grid(alpha=0.25)
    return figure, axes


def write_page(path: Path, runs: list[Run], **content: Any) -> None:
    """Render page.html.j2 into one HTML file, with its plots beside it."""
    mark_best(runs)
    plots = {}
    if all("coherence" in run.figures for run in runs):
        plots = {"frontier": path.with_name("frontier.png"), "novelty": path.with_name("novelty.png")}
        frontier(plots["frontier"], runs)
        novelty(plots["novelty"], runs, content["control"]["novelty"])
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["embedded"] = embedded
    content |= {"columns": COLUMNS, "runs": runs, "plots": plots}
    content["uniform_bits"] = np.log2(content["manifest"].vocab_size)
    with atomic(path) as temporary:
        temporary.write_text(environment.get_template("page.html.j2").render(**content))
