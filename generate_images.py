"""Sample token sequences from the index, decode them, and say what was copied.

    python generate_images.py                                  # 1,000 sequences, 64 pictures: 13 s on two cores
    python generate_images.py --method ntd --context 16        # plain infini-gram: copies whole images
    python generate_images.py --method aligned --min-images 1 --seed 1

Reads data/index (from build_index.sh) and the token folders it was built from, for the held-out control. Writes
data/generated/METHOD-seed0/: tokens.npy, sources.npy (image and position that every token was copied from),
image_0000.png ..., grid.png (each image above its nearest training image, exact copies framed), sources.png (images
beside the training images they were stitched from) and report.json. Prints, after the progress bars,

    ---
    out: data/generated/soft-seed0
    exact_copies: 0.0 % (0.0 to 0.4)
    ...
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from imagegram.common import run_script, summary
from imagegram.generating import generate
from imagegram.report import COLUMNS
from imagegram.sampler import Settings


@dataclass
class Config:
    method: str = "soft"  # ntd | aligned | smoothed | soft: see imagegram/sampler.py
    context: int = 2  # ntd, aligned, smoothed: tokens of context at most
    min_images: int = 2  # aligned: images that must share a context, else it is shortened; 1 copies
    anchor: int = 0  # aligned: first tokens that must match besides
    neighbours: int = 20  # soft: images to choose among; 1 copies, all of them give position-unigrams
    temperature: float = 1.0  # below 1 sharpens the counts, above 1 flattens them
    top_k: int = 0  # most likely tokens kept; 0: all
    sequences: int = 1000  # sampled and measured: a rate is then known to +-3 %
    images: int = 64  # of these, decoded
    seed: int = 0
    index: Path = Path("data/index")
    out: Path | None = None  # None: data/generated/METHOD-seedSEED
    codec: str = ""  # "": the one that made the tokens of the index
    timesteps: int = 0  # flow steps of a decode; 0: the codec's default
    guidance_scale: float = 0.0  # 0: the codec's default


def main(config: Config) -> None:
    result = generate(
        config.index,
        config.out or Path("data/generated") / f"{config.method}-seed{config.seed}",
        Settings(
            config.method,
            config.context,
            config.min_images,
            config.anchor,
            config.neighbours,
            config.temperature,
            config.top_k,
        ),
        config.sequences,
        config.images,
        config.seed,
        config.codec,
        config.timesteps,
        config.guidance_scale,
    )
    if not result.new:
        print(f"{result.path} is finished with these settings, nothing to do")
    figures = {column.key: "{} ({})".format(*column.cell(result.report["generated"])) for column in COLUMNS}
    summary(out=result.path, **figures)


if __name__ == "__main__":
    sys.exit(run_script(main, Config, __doc__))
