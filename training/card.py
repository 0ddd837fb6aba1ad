"""The card of a trained miniature: what it was made from and what it can do, in figures and
pictures."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure as Plot
from PIL import Image

from imagegram.codec import miniatures
from imagegram.codec.familiarity import too_little
from imagegram.codec.tiny import TinyCodec
from imagegram.files import atomic, write_json
from imagegram.metrics.intervals import to_json
from imagegram.report.sheets import rows_of_images
from training.figures import FEWEST_JUDGED, encode, evaluate_all
from training.images import Images
from training.losses import prefix_lengths

SHOWN = 12  # images of reconstructions.png


def write_card(out: Path, codec: TinyCodec, data: list[Images], recipe: dict[str, Any]) -> str:
    """Measure the codec in `out`; write card.json, card.md and the pictures there. A line: whether
    to train longer."""
    figures = evaluate_all(codec, data, out / "training")
    reconstructions(codec, data).save(out / "reconstructions.png")
    plot(out / "training", figures, out / "training.png")
    text = card_text(codec, figures, recipe)
    with atomic(out / "card.md") as temporary:
        temporary.write_text(text, encoding="utf-8", errors="surrogateescape")
    write_json(out / miniatures.CARD, {"data_sets": to_json(figures), "training": recipe})
    return advice(figures, recipe)


def advice(figures: dict[str, dict[str, Any]], recipe: dict[str, Any]) -> str:
    """One line: whether the codec keeps enough of its own held-out images, or should be trained
    longer."""
    for name, row in figures.items():
        images = int(row["tokenized"])
        if fault := too_little(row["error"], row["flat"], row["codes_median"], images):
            return (
                f"warning: train it longer, --encoder-steps {4 * recipe['encoder_steps']} "
                f"--decoder-steps {4 * recipe['decoder_steps']} for example: of {name} it keeps "
                f"next to nothing: {fault}"
            )
    worst, row = max(figures.items(), key=lambda one: one[1]["error"] / (one[1]["flat"] or np.inf))
    return (
        f"trained long enough to be used: of {worst} it is off by {row['error']:.0f} levels of "
        f"255, flat pictures by {row['flat']:.0f}"
    )


def card_text(codec: TinyCodec, figures: dict[str, dict[str, Any]], recipe: dict[str, Any]) -> str:
    """The card in Markdown."""
    lengths = prefix_lengths(codec.tokens_per_image)
    start = f"the weights of {recipe['start']}" if recipe["start"] else "scratch"
    text = f"""# A miniature tokenizer for {", ".join(figures)}

{codec.image_size} x {codec.image_size} pixels, {codec.tokens_per_image} tokens of \
{codec.vocab_size}; weights {codec.revision}. Trained from {start}: {recipe["encoder_steps"]} \
steps of the encoder, {recipe["decoder_steps"]} of the decoder. It knows no other images.

![held-out images and their reconstructions](reconstructions.png)

![training losses](training.png)

Measured on held-out images. *Error*: root mean square, in levels of 255, of a reconstruction \
from all tokens (four steps, no guidance); median, and what 95 % stay below. *Flat*: the error of \
a flat picture of each image's mean colour. *Real*: accuracy of a small classifier on the real \
images, with its 95 % interval; under the numbers of tokens, its accuracy on reconstructions \
relative to that; none where fewer than {FEWEST_JUDGED} images are held out.

| data set | training | held out | error | 95 % | flat | real | {" | ".join(map(str, lengths))} \
| codes in use |
|{" --- |" * (8 + len(lengths))}
"""
    for name, row in figures.items():
        numbers = [f"{row[key]:.0f}" for key in ("training_images", "images")]
        numbers += [f"{row[key]:.1f}" for key in ("error", "error_95", "flat")]
        numbers += [f"{row.get(key, '')}" for key in ("real", *(f"relative_{k}" for k in lengths))]
        codes = f"{row['codes_min']:.0f} at the least, {row['codes_median']:.0f} in the median"
        numbers.append(f"{codes} (on {row['tokenized']:.0f})")
        text += f"| {name} | {' | '.join(numbers)} |\n"
    return text


def reconstructions(codec: TinyCodec, data: list[Images]) -> Image.Image:
    """Held-out images of all data sets, above what 1, 2, 4, 8 ... of their tokens give."""
    shown = torch.cat([images.some_unseen(SHOWN // len(data))[0] for images in data])
    tokens = encode(codec, shown)
    seeds = range(len(shown))
    rows = [("original", shown)]
    for k in prefix_lengths(codec.tokens_per_image):
        rebuilt = codec.decode(tokens[:, :k], seeds, 2 * codec.timesteps, codec.guidance_scale)
        rows.append((f"{k} token{'s' * (k > 1)}", rebuilt))
    return rows_of_images(rows)


def plot(checkpoints: Path, figures: dict[str, dict[str, Any]], path: Path) -> None:
    """Losses against steps, relative accuracy against the number of tokens."""
    figure = Plot(figsize=(13, 3.6), layout="constrained")
    *lefts, right = figure.subplots(1, 3)
    stages = (("encoder", ("pixels", "features")), ("decoder", ("flow", "alignment")))
    for axes, (stage, names) in zip(lefts, stages, strict=True):
        lines = (checkpoints / f"{stage}.jsonl").read_text().splitlines()
        log = pd.DataFrame(map(json.loads, lines))
        for name in names:
            axes.plot(log.step, log[name], label=name)
        axes.set(xlabel="step", ylabel="loss (running mean)", yscale="log")
        axes.set_title(f"training of the {stage}")
        axes.locator_params(axis="x", nbins=5)
        axes.legend()
    right.set_xscale("log", base=2)
    for name, row in figures.items():
        if "real" in row:
            kept = [key for key in row if key.startswith("relative_")]
            lengths = [int(key.removeprefix("relative_")) for key in kept]
            accuracies = np.array([(row[key].value, row[key].low, row[key].high) for key in kept])
            right.plot(lengths, accuracies[:, 0], "o-", label=Path(name).name)
            right.fill_between(lengths, *accuracies[:, 1:].T, alpha=0.15)
            right.set_xticks(lengths, [str(k) for k in lengths])
            right.legend()
    right.set(xlabel="tokens kept", ylabel="accuracy relative to real", ylim=(0, 1.05))
    right.set_title("held-out images")
    right.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
