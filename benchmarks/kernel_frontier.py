"""How near the kernel n-gram comes to real images in three figures at once, by its step and its temperature.

    python -m benchmarks.kernel_frontier --index data/demo/index --name digits
    python -m benchmarks.kernel_frontier --index data/shapes/index --name scenes

For every step and temperature of a grid: the exact chance of a copy, P(closer) in tokens and in codes of 1,000
sequences (0.5 is like real images), and the coherence of some of them decoded (1 is like real images). The step and
the temperature that were fitted are 1 and 1; the others are no fit, and a choice among them by these figures would be
one on held-out images. Writes a CSV file, to which the same command adds what is missing, and plots it beside it.
"""

import csv
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from imagegram.cli import UserError, run_script, summary
from imagegram.codec import Codec
from imagegram.files import atomic
from imagegram.generating import Decoder, open_codec
from imagegram.index.folder import Index
from imagegram.measure.coherence import open_judges
from imagegram.measure.control import Control, read_control
from imagegram.measure.copying import measure
from imagegram.sampling.likelihood import probabilities
from imagegram.sampling.sampler import sample
from imagegram.sampling.settings import Settings

GRID = [(step, temperature) for temperature in (1.0, 0.9, 0.8) for step in (1.5, 1.35, 1.2, 1.0, 0.85, 0.7, 0.5)]
GRID += [(1.5, 0.7), (2.0, 0.6), (3.0, 0.5)]  # steps wide, then draws sharpened
MOST_TRAINING = 1000  # distinct training images that stand for all of them
GOAL = (0.45, 0.55)  # of P(closer)


@dataclass
class Config:
    index: Path = Path("data/index")
    name: str = "digits"  # of the data, in the table
    out: Path = Path("docs/kernel_frontier.csv")
    sequences: int = 1000
    images: int = 128  # of these, decoded
    seed: int = 0


@dataclass(frozen=True)
class Point:
    """The figures of a step and a temperature, and the 95 % interval of the coherence."""

    data: str
    step: float
    temperature: float
    exact_copy_probability: float
    closer_in_tokens: float
    closer_in_codes: float
    coherence: float
    coherence_low: float
    coherence_high: float

    def as_row(self) -> str:
        """A line of a Markdown table."""
        setting = f"{self.step:g} | {self.temperature:g} | {self.exact_copy_probability:.1e}"
        closer = f"{self.closer_in_tokens:.2f} | {self.closer_in_codes:.2f}"
        interval = f"[{self.coherence_low:.2f}, {self.coherence_high:.2f}]"
        return f"| {setting} | {closer} | {self.coherence:.2f} {interval} |"


def copy_probability(index: Index, settings: Settings) -> float:
    """The chance that a drawn sequence equals a training image, from a random share of these where there are many."""
    distinct = np.unique(index.tokens, axis=0)
    chosen = np.random.default_rng(0).permutation(len(distinct))[:MOST_TRAINING]
    return float(probabilities(index, settings, distinct[chosen]).prod(1).mean() * len(distinct))


def point(config: Config, index: Index, codec: Codec, control: Control, settings: Settings) -> Point:
    """Measure a step and a temperature."""
    rng = np.random.default_rng(config.seed)
    tokens = sample(index, settings, config.sequences, rng).tokens
    figures = measure(tokens, index, control.tokens, rng)["generated"]
    decoder = Decoder(codec, codec.timesteps, codec.guidance_scale)
    judges = open_judges(index, control, decoder, index.tokens_per_image)
    if judges is None:
        raise UserError(f"{index.path} holds out too few images to judge coherence")
    coherence = judges.measure(decoder(tokens[: config.images]), rng)["generated"]["coherence"]
    return Point(
        config.name,
        settings.step,
        settings.temperature,
        copy_probability(index, settings),
        figures["closer_than_held_out"]["value"],
        figures["closer_in_codes"]["value"],
        coherence["value"],
        coherence["low"],
        coherence["high"],
    )


def read(path: Path) -> list[Point]:
    """The points of a table; none where there is none."""
    if not path.exists():
        return []
    with path.open(newline="") as f:
        return [Point(line.pop("data"), *(float(value) for value in line.values())) for line in csv.DictReader(f)]


def write(path: Path, points: list[Point]) -> None:
    """Write a table, numbers to four digits."""
    with atomic(path) as temporary, temporary.open("w", newline="") as f:
        table = csv.DictWriter(f, list(Point.__annotations__), lineterminator="\n")
        table.writeheader()
        for each in points:
            table.writerow({k: f"{v:.4g}" if isinstance(v, float) else v for k, v in asdict(each).items()})


def plot(path: Path, points: list[Point]) -> None:
    """P(closer) in codes over P(closer) in tokens, the coherence as a colour; a square says where real images are."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    names = sorted({each.data for each in points})
    figure, panels = plt.subplots(1, len(names), figsize=(5.4 * len(names), 4.6), layout="constrained", squeeze=False)
    for name, axes in zip(names, panels[0], strict=True):
        side = GOAL[1] - GOAL[0]
        axes.add_patch(plt.Rectangle((GOAL[0], GOAL[0]), side, side, color="0.85", zorder=0))
        for temperature, marker in zip(sorted({each.temperature for each in points}), "PX^vso", strict=False):
            some = [each for each in points if (each.data, each.temperature) == (name, temperature)]
            if not some:
                continue
            x = [each.closer_in_tokens for each in some]
            y = [each.closer_in_codes for each in some]
            axes.plot(x, y, color="0.6", lw=0.8, zorder=1)
            shades = [each.coherence for each in some]
            dots = axes.scatter(x, y, c=shades, marker=marker, s=55, vmin=0.85, vmax=1.1, edgecolor="black", lw=0.6)
            dots.set_label(f"temperature {temperature:g}")
            for each in some:
                text = f"{each.step:g}: {each.exact_copy_probability:.0e}"
                at = (each.closer_in_tokens, each.closer_in_codes)
                axes.annotate(text, at, (5, -9), textcoords="offset points", fontsize=7)
        axes.set(
            title=f"{name} (beside a dot: step: P(exact copy))", xlabel="P(closer), tokens", ylabel="P(closer), codes"
        )
        axes.title.set_fontsize(10)
        axes.legend(loc="upper left", fontsize=8)
    figure.colorbar(dots, ax=panels[0].tolist(), label="coherence")
    with atomic(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    plt.close(figure)


def main(config: Config) -> None:
    index = Index.open(config.index)
    control = read_control(index)
    if not len(control.tokens):
        raise UserError(f"{index.path} holds out no images: there is nothing to compare with")
    codec = open_codec(index)
    points = read(config.out)
    for step, temperature in tqdm(GRID, desc=config.name, unit="point"):
        if (config.name, step, temperature) not in {(each.data, each.step, each.temperature) for each in points}:
            points.append(point(config, index, codec, control, Settings("kernel", step=step, temperature=temperature)))
            write(config.out, points)
    plot(config.out.with_suffix(".png"), points)
    print("| step | temperature | P(exact copy) | P(closer), tokens | P(closer), codes | coherence |")
    print("| --- " * 6 + "|")
    for each in points:
        if each.data == config.name:
            print(each.as_row())
    summary(table=config.out, plot=config.out.with_suffix(".png"))


if __name__ == "__main__":
    sys.exit(run_script(main, Config, __doc__))
