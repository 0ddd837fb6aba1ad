"""Train the miniature tokenizer on images of your own.

    .venv/bin/python train_tiny_flextok.py --dataset my_pictures/ --start tiny --out data/my_codec
    .venv/bin/python tokenize_fast.py --dataset my_pictures/ --codec data/my_codec

The miniature has 32 x 32 pixels (or 64 x 64, --image-size) and 16 tokens of 512 codes (--tokens,
--levels), and knows only what it was trained on. `--dataset` takes what tokenize_fast.py takes, one
or several. `--start tiny` begins with the weights that are shipped, and needs a fraction of the
steps. On two cores a training from scratch takes one to three hours, one from given weights 15
minutes to an hour; on a CUDA GPU, where it is compiled, minutes. Checkpoints are written every 500
steps; the same command goes on from them and ends with the same weights, and one with other
--decoder-steps keeps the encoder. Prints one line per 100 steps or 10 seconds:

    decoder step  10100/18000  flow 0.0616  alignment 0.1840  lr 1.5e-03  415 img/s  ETA 15 min

Writes into --out: weights.safetensors, card.json and card.md (what it can do: the accuracy of a
classifier on held-out images rebuilt from 1, 2, 4 ... tokens, errors, codes in use),
reconstructions.png, training.png, and training/ with the checkpoints, which may be deleted at the
end; and says in a line whether to train longer. The images that are held out are those that
tokenize_fast.py holds out.

The defaults, digits and scenes from scratch, made the weights that are shipped as --codec tiny.
"""

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagegram.artifact import Artifact, changes
from imagegram.cli import OmitArgPrefixes, UserError, run_script, summary
from imagegram.codec.sizes import MOST_IDS
from imagegram.data.dataset import DatasetOptions, check_different
from imagegram.data.spec import DatasetSpec

if TYPE_CHECKING:
    from imagegram.codec.tiny_flextok import TinyFlexTok
    from training.images import Images

FROM_SCRATCH = (10_000, 18_000)  # steps of the encoder and of the decoder
FROM_WEIGHTS = (1_000, 4_000)
VERSION = 1  # one more with every change of the code that changes what a training ends with
IMAGE_SIZES = (32, 64)  # pixels
MOST_TOKENS = 256
MOST_DATA_SETS = 12  # four images of each in every step


@dataclass
class Config:
    dataset: tuple[str, ...] = ("digits", "shapes")  # each is what tokenize_fast.py takes
    each: OmitArgPrefixes[DatasetOptions] = DatasetOptions(images=60_000)
    out: Path = Path("data/my_codec")
    image_size: int = 32  # pixels: 32 or 64
    tokens: int = 16  # of an image, 1 to 256
    levels: tuple[int, ...] = (8, 8, 8)  # of a token's digits; their product is the number of codes
    start: str = ""  # a miniature to start from: tiny, fashion or a folder; "": from scratch
    encoder_steps: int = 0  # 0: 10,000 from scratch, 1,000 from given weights
    decoder_steps: int = 0  # 0: 18,000 from scratch, 4,000 from given weights
    seed: int = 0


def main(config: Config) -> None:
    # Imported here, so that --help need not wait for torch.
    import torch

    from imagegram.codec.tiny import TinyCodec
    from training.card import write_card
    from training.images import read_images
    from training.tokenizer import train

    # What GELU leaves of large negative numbers slows products down many times.
    torch.set_flush_denormal(True)

    # 1) Check everything before anything is touched.
    steps = steps_of(config)
    check(config)
    model = start_model(config)
    specs = DatasetSpec.of_each(config.dataset, config.each)
    data = [read_images(spec, config.image_size) for spec in specs]
    check_different(data)

    # 2) Train, or go on.
    checkpoints = config.out / "training"
    place = Artifact(config.out, "codec")
    place.claim()
    with place.lock():
        recipe = make_recipe(config, steps, data)
        remember(place, recipe)
        train(model, data, checkpoints, *steps, config.seed)
        model.save(config.out / "weights.safetensors")

        # 3) Measure the weights as they were written, in half precision.
        codec = TinyCodec(config.out, str(config.out))
        advice = write_card(config.out, codec, data, recipe)
    print(advice)
    summary(
        codec=config.out,
        card=config.out / "card.md",
        reconstructions=config.out / "reconstructions.png",
        megabytes=round((config.out / "weights.safetensors").stat().st_size / 1e6, 1),
    )


def steps_of(config: Config) -> tuple[int, int]:
    """Steps of the encoder and of the decoder, with the defaults filled in."""
    encoder, decoder = FROM_WEIGHTS if config.start else FROM_SCRATCH
    steps = (config.encoder_steps or encoder, config.decoder_steps or decoder)
    if min(steps) < 1:
        what = "--encoder-steps and --decoder-steps are positive, or 0 for the default"
        raise UserError(f"{what}, not {min(steps)}")
    return steps


def check(config: Config) -> None:
    """UserError where the data sets or the folder cannot be meant."""
    names = config.dataset
    if not names or len(set(names)) < len(names) or len(names) > MOST_DATA_SETS:
        what = f"--dataset takes 1 to {MOST_DATA_SETS} different data sets"
        raise UserError(f"{what}, not {' '.join(names) or 'none'}")
    if config.each.images < 1:
        what = "it is the most images of a data set, 60000 by default"
        raise UserError(f"--images {config.each.images}: {what}")
    if config.image_size not in IMAGE_SIZES:
        sizes = " or ".join(map(str, IMAGE_SIZES))
        raise UserError(f"--image-size is {sizes}, not {config.image_size}")
    if not 1 <= config.tokens <= MOST_TOKENS:
        raise UserError(f"--tokens {config.tokens}: a miniature has 1 to {MOST_TOKENS}")
    if min(config.levels, default=0) < 2 or math.prod(config.levels) > MOST_IDS:
        raise UserError(f"--levels are 2 or more each, and their product is at most {MOST_IDS}")
    Artifact(config.out, "codec").check()


def start_model(config: Config) -> "TinyFlexTok":
    """The network with the weights of --start, or with random ones."""
    import torch

    from imagegram.codec import miniatures
    from imagegram.codec.tiny_flextok import TinyConfig, TinyFlexTok

    if not config.start:
        torch.manual_seed(config.seed)
        patch = config.image_size // 8
        return TinyFlexTok(TinyConfig(config.image_size, patch, config.tokens, config.levels))
    folder = miniatures.find(config.start)
    if not folder:
        raise UserError(
            f"--start {config.start}: no miniature of that name or path; it is "
            f"{', '.join(miniatures.shipped())}, or a folder that this script wrote"
        )
    model = TinyFlexTok.load(folder / miniatures.WEIGHTS)
    for option in ("image_size", "tokens", "levels"):
        has, asked = getattr(model.config, option), getattr(config, option)
        if has != asked:
            given = f"--{option.replace('_', '-')}"
            if option == "levels":
                has, asked = " ".join(map(str, has)), " ".join(map(str, asked))
            remedy = f"give {given} {has}, or leave --start out"
            raise UserError(f"{given} {asked}: {config.start} has {has}: {remedy}")
    return model


def make_recipe(config: Config, steps: tuple[int, int], data: "list[Images]") -> dict[str, Any]:
    """What the weights are made from: a training goes on only from checkpoints of the same."""
    from imagegram.codec import miniatures

    folder = miniatures.find(config.start) if config.start else None
    return {
        "version": VERSION,
        "data_sets": {images.name: images.fingerprint for images in data},
        "columns": [[images.image_column, images.label_column] for images in data],
        "split": config.each.split,
        "images": [len(images.pixels) for images in data],
        "image_size": config.image_size,
        "tokens": config.tokens,
        "levels": list(config.levels),
        "start": config.start,
        "start_revision": miniatures.revision(folder) if folder else "",
        "encoder_steps": steps[0],
        "decoder_steps": steps[1],
        "seed": config.seed,
    }


def remember(place: Artifact, recipe: dict[str, Any]) -> None:
    """Keep the recipe with the checkpoints; UserError where they were made by another one."""
    # What older versions did not record was as it is now.
    before = {key: recipe[key] for key in ("version", "columns", "tokens", "levels")}
    changed = changes(before | (place.record() or recipe), recipe)
    if set(changed) == {"decoder_steps"}:
        # The encoder knows nothing of the decoder, whose schedule depends on its steps.
        what = "the encoder stays, the decoder is trained from its first step"
        print(f"{changed['decoder_steps']}: {what}")
        for name in ("decoder.pt", "decoder.jsonl"):
            (place.path / "training" / name).unlink(missing_ok=True)
    elif changed:
        what = f"belongs to another training ({'; '.join(changed.values())})"
        raise UserError(f"{place.path} {what}: choose another --out")
    place.finish(recipe)


if __name__ == "__main__":
    sys.exit(run_script(main, Config, __doc__))
