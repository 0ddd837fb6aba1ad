"""What more images would change, said from a folder of tokens: entropies, exact copy rates, and
their extrapolation.

Nothing is sampled and no index is needed: contexts of all images, and of subsets, are counted
(counting.py); law.py says what P(exact copy) will be with ten and a hundred times the images.
"""

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from imagegram.cli import UserError, summary
from imagegram.files import atomic, write_json
from imagegram.machine import memory_available
from imagegram.metrics import counting
from imagegram.metrics.intervals import Figure, number_text, to_json
from imagegram.metrics.law import Law, fit_law
from imagegram.tokens import TokenFolder

LEAST_IMAGES = 100  # fewer say nothing about more
MEMORY = 90  # bytes a token, at most
SUBSETS = 7  # sizes of subsets, each half of the one before
CORPORA = 4  # disjoint subsets of a size, at most
WANTED = 0.1  # the P(copy) that the images needed are told for
TIMES = (10, 100)  # the images at hand
WIDEST = 0.5  # an interval of P(copy): a wider one leaves too much open to be told
SETTLED = 0.1  # bits: a token of less is known from those before it
GRAMS = 6  # tokens: collision entropies of n-grams up to this length
_UNKNOWN = "cannot be told"
Tokens = NDArray[np.uint16]


@dataclass(frozen=True)
class Curve:
    """P(copy) of one sampler and context: now, and its law (None: no context ever stood twice)."""

    sampler: str
    context: int
    now: float
    law: Law | None

    def at(self, images: float) -> Figure:
        """P(copy) with `images`, and its interval: all of 0 to 1 where there is no law."""
        return Figure(1.0, 0.0, 1.0) if self.law is None else self.law.copy_probability(images)

    def told(self, images: float) -> Figure | None:
        """The same; None where the interval leaves nearly everything open."""
        figure = self.at(images)
        return figure if figure.high - figure.low < WIDEST else None

    def describe(self, images: int) -> dict[str, Any]:
        """P(copy) now and with more than these images, None where it cannot be told, and the images
        at which it is WANTED."""
        return {
            "sampler": self.sampler,
            "context": self.context,
            "now": self.now,
            **{f"at_{times}_times": self.told(times * images) for times in TIMES},
            "images_for_10_percent": finite(self.law.images_for(WANTED)) if self.law else None,
        }


def predict(path: Path, longest: int, images: int = 0) -> dict[str, Any]:
    """Print and write what is said at the top for the images of a token folder that are not held
    out.

    longest: tokens of context at most; images: a random sample of them (0: all). Writes
    PATH/prediction.json and .png. UserError: too few images, or too little memory.
    """
    started = time.monotonic()
    tokens, folder = indexed_tokens(path, images, np.random.default_rng(0))
    if longest < 1:
        raise UserError(f"--contexts {longest}: at least 1 is needed")

    manifest = folder.manifest
    curves = copy_curves(tokens, longest)
    pairs = counting.copy_figures(tokens, range(1, longest + 1), aligned=True, min_images=2)
    grams = {n: finite(bits) for n, bits in counting.gram_entropies(tokens, GRAMS).items()}
    figures: dict[str, Any] = {
        "tokens": str(path),
        "codec": manifest.codec,
        "images": len(tokens),
        "tokens_per_image": tokens.shape[1],
        "vocab_size": manifest.vocab_size,
        "bits_by_position": [position_figures(column) for column in tokens.T],
        "collision_bits_of_n_grams": grams,
        "copy_probability": [curve.describe(len(tokens)) for curve in curves],
        "aligned_two_images": {n: float(np.exp(each.log_copy)) for n, each in pairs.items()},
        "entropy_cliff": cliff(tokens, manifest.vocab_size, grams),
    }
    figures["advice"] = advice(figures, bool(manifest.levels))
    print_figures(figures)
    result, plot = path / "prediction.json", path / "prediction.png"
    write_json(result, to_json(figures))
    draw(plot, curves, len(tokens))
    summary(prediction=result, plot=plot, seconds=round(time.monotonic() - started, 1))
    return figures


def indexed_tokens(path: Path, images: int, rng: np.random.Generator) -> tuple[Tokens, TokenFolder]:
    """The tokens [n, L] of finished shards, not held out, in random order, and their folder."""
    folder = TokenFolder.open(path)
    finished = [shard for shard in range(folder.shards) if not folder.problem(shard)]
    if len(finished) < folder.shards:
        said = f"{len(finished)} of {folder.shards} shards are finished"
        print(f"{path}: {said}, the prediction is made from these")
    parts = [folder.read(shard)[0][~folder.held_out(shard)] for shard in finished]
    total = sum(map(len, parts))
    if images > total:
        there = f"{total} images that are not held out"
        raise UserError(f"{path} holds {there}, {images} were asked for")
    n = images or total
    if n < LEAST_IMAGES:
        few = f"{n} images are too few to say anything about more"
        raise UserError(f"{few}: take at least {LEAST_IMAGES}")
    need = n * folder.manifest.tokens_per_image * MEMORY
    if need > memory_available():
        fit = int(0.8 * memory_available() / need * n)
        raise UserError(f"{n} images need {need / 1e9:.1f} GB of memory: take --images {fit}")
    return np.concatenate(parts)[rng.permutation(total)[:n]], folder


def position_figures(column: Tokens) -> dict[str, float | None]:
    """Entropies in bits of the tokens [n] at one position; None where no two are equal."""
    collision = counting.collision_entropy(counting.number(column.astype(np.int64))[1])
    return {"entropy": counting.entropy(column), "collision": finite(collision)}


def cliff(tokens: Tokens, vocab_size: int, grams: dict[int, float | None]) -> dict[str, Any]:
    """Where an image of the corpus [n, L] is known from its first tokens, beside the law of Zheng
    et al. (2026).

    settled_from: the first position whose token is known from those before it (None: none is); law:
    t* = ceil(log2 n / log2 vocab_size). critical_context: the tokens whose n-grams have as many
    bits of collision entropy as the corpus has places (None: more than GRAMS); context_bits:
    theirs; place_bits: of the places.
    """
    n, length = tokens.shape
    by_position = counting.prefix_entropies(tokens)
    settled = np.flatnonzero(by_position < SETTLED)
    places = float(np.log2(n * length))
    critical = min((n for n, bits in grams.items() if bits is None or bits >= places), default=None)
    return {
        "bits_by_position": by_position.round(4).tolist(),
        "settled_from": int(settled[0]) + 1 if len(settled) else None,
        "bits_of_images": float(np.log2(n)),
        "law": math.ceil(np.log2(n) / np.log2(vocab_size)),
        "critical_context": critical,
        "context_bits": grams.get(critical or 0),
        "place_bits": places,
    }


def cliff_in_words(found: dict[str, Any], images: int, vocab_size: int) -> list[str]:
    """The same in sentences."""
    after, critical = found["settled_from"], found["critical_context"]
    ratio = f"ceil(log2 {images:,} / log2 {vocab_size:,})"
    law = f"Tokens of full entropy would do so after t* = {ratio} = {found['law']}."
    places = f"the corpus has {found['place_bits']:.1f} bits of places"
    first = f"No token is known from those before it: each has {SETTLED} bits or more."
    if after:
        shown = ", ".join(f"{bits:.2f}" for bits in found["bits_by_position"][: after + 1])
        first = (
            f"The first {_tokens(after - 1)} settle{'s' * (after == 2)} which image it is: from "
            f"token {after} on the next one is known ({shown} bits)."
        )
    second = f"Even contexts of {_tokens(GRAMS)} stand at several places ({places})"
    second += ": none is critical yet."
    if critical:
        bits = found["context_bits"]
        told = "no two are equal" if bits is None else f"{bits:.1f} bits"
        second = (
            f"A context of {_tokens(critical)} stands at one place as a rule ({told}; {places}): "
            "from there on n-grams know only one way to go on, and copy."
        )
    return [f"{first} {law}", second]


def finite(value: float) -> float | None:
    """A number as it may stand in JSON."""
    return value if np.isfinite(value) else None


def copy_curves(tokens: Tokens, longest: int) -> list[Curve]:
    """P(copy) of `ntd` and of `aligned` with one image, for contexts of 1 to `longest` tokens."""
    n, contexts = len(tokens), range(1, longest + 1)
    divisors = [2**i for i in range(SUBSETS, -1, -1) if n // 2**i >= LEAST_IMAGES // 2]
    sizes = [n // divisor for divisor in divisors]
    corpora = [min(divisor, CORPORA) for divisor in divisors]
    total = 2 * int(np.dot(sizes, corpora))
    curves = []
    with tqdm(total=total, unit="img", desc="counting contexts") as bar:
        for sampler, aligned in (("ntd", False), ("aligned", True)):
            counted: list[list[dict[int, counting.CopyFigures]]] = []  # by size, then by corpus
            for size, number_of_them in zip(sizes, corpora, strict=True):
                counted.append([])
                for corpus in range(number_of_them):
                    rows = tokens[corpus * size : (corpus + 1) * size]
                    counted[-1].append(counting.copy_figures(rows, contexts, aligned=aligned))
                    bar.update(size)
            for context in contexts:
                values = [
                    -float(np.mean([figures[context].log_copy for figures in each]))
                    for each in counted
                ]
                law = fit_law(sizes, values, corpora, counted[-1][0][context].competitors)
                curves.append(Curve(sampler, context, float(np.exp(-values[-1])), law))
    return curves


def advice(figures: dict[str, Any], has_codes: bool) -> list[str]:
    """Sentences: what more images would do, and which sampler to take."""
    curves = [each for each in figures["copy_probability"] if each["sampler"] == "ntd"]
    known = {each["context"]: figure for each in curves if (figure := each["at_100_times"])}
    cured = [context for context, figure in known.items() if figure.value < WANTED]
    said = f"contexts of at most {_tokens(max(cured))}" if cured else "no context of these"
    sentences = [f"With a hundred times the images, P(copy) of ntd is below 10 % for {said}."]
    if len(known) < len(curves):
        sentences.append(
            f"For contexts above {_tokens(max(known, default=0))} it cannot be told from "
            f"{figures['images']:,} images: hardly any two of them share one."
        )
    usable = [int(context) for context, p in figures["aligned_two_images"].items() if p < 0.01]
    take = "Take the sampler smoothed: every context that is shared makes copies here."
    if has_codes:
        take = (
            "Take the sampler kernel: its contexts need only be near. How often it copies, "
            "exact_copy_probability in its report.json says; a larger --step makes it less."
        )
    elif usable:
        take = (
            f"Take aligned --context {max(usable)} --min-images 2: P(copy) is below 1 %. (The "
            "codec has no FSQ codes, which kernel needs.)"
        )
    return [*sentences, take]


def _tokens(n: int) -> str:
    return f"{n} token{'s' * (n != 1)}"


def print_figures(figures: dict[str, Any]) -> None:
    """The figures as tables."""
    images, length = figures["images"], figures["tokens_per_image"]
    vocab_size = figures["vocab_size"]
    print(
        f"\n{figures['tokens']}: {images:,} images of {length} tokens of {vocab_size:,} "
        f"({np.log2(vocab_size):.2f} bits)\n"
    )
    for sentence in cliff_in_words(figures["entropy_cliff"], images, vocab_size):
        print(sentence)
    print("\n".join(figures["advice"]))

    print("\nbits a token by position: entropy, collision entropy")
    for position in (2**i for i in range(length.bit_length())):
        each = figures["bits_by_position"][position - 1]
        print(f"  {position:>5}   {each['entropy']:5.2f}  {_collision(each['collision'])}")

    apart = f"two places of this corpus are told apart by {np.log2(images * length):.1f}"
    print(f"\ncollision entropy of n-grams in bits ({apart})")
    for n, bits in figures["collision_bits_of_n_grams"].items():
        print(f"  {n:>5}   {_collision(bits)}")

    print(
        "\nP(exact copy) in %: now exactly, with ten and a hundred times the images by the law "
        "(95 % of the fit)"
    )
    print(f"  {'sampler':<8} context    now   {'x 10':<28}{'x 100':<28}images for 10 %")
    for each in figures["copy_probability"]:
        needed = each["images_for_10_percent"]
        known = [each[f"at_{times}_times"] for times in TIMES]
        said = f"{needed:,.2g}" if needed else "never" if all(known) else _UNKNOWN
        if each["now"] < WANTED:
            said = "fewer than these"
        cells = [f"{f'{figure:%}' if figure else _UNKNOWN:<28}" for figure in known]
        now = number_text(each["now"], "%")
        print(f"  {each['sampler']:<8} {each['context']:>7} {now:>6}   {''.join(cells)}{said}")

    two = figures["aligned_two_images"].items()
    rates = ", ".join(f"{context}: {number_text(p, '%')}" for context, p in two)
    print(f"\nP(exact copy) in % of aligned when two images must share a context, now: {rates}\n")


def _collision(bits: float | None) -> str:
    return "no two are equal" if bits is None else f"{bits:5.2f}"


def draw(path: Path, curves: list[Curve], images: int) -> None:
    """Plot P(copy) against the number of images, a hundredth to a hundred times those at hand."""
    import matplotlib
    from matplotlib.figure import Figure as Plot

    plot = Plot(figsize=(9, 3.8), layout="constrained")
    both = dict(zip(("ntd", "aligned"), plot.subplots(1, 2, sharey=True), strict=True))
    colors = matplotlib.colormaps["viridis"]
    longest = max(curve.context for curve in curves)
    sizes = np.geomspace(images / 100, images * max(TIMES), 60)
    for curve in curves:
        axes, label = both[curve.sampler], str(curve.context)
        color = colors(0.95 * (curve.context - 1) / max(1, longest - 1))
        told = {size: figure for size in sizes if (figure := curve.told(size))}
        middle, low, high = (
            [getattr(figure, name) for figure in told.values()] for name in ("value", "low", "high")
        )
        axes.plot(list(told), middle, color=color, lw=1.5, label=label)
        axes.fill_between(list(told), low, high, color=color, alpha=0.12, lw=0)
        axes.plot(images, curve.now, "o", color=color, ms=5)
    for sampler, axes in both.items():
        axes.axvline(images, color="0.6", lw=1, ls=":")
        axes.set(xscale="log", xlabel="training images", title=sampler, ylim=(-0.03, 1.03))
        axes.grid(alpha=0.25)
    both["ntd"].set_ylabel("P(exact copy)")
    place = {"loc": "center left", "bbox_to_anchor": (1.01, 0.5)}
    both["aligned"].legend(title="tokens of context", fontsize=8, **place)
    with atomic(path) as temporary:
        plot.savefig(temporary, dpi=110, format="png")
