"""Sample token sequences from the index, decode them, and say what was copied.

    .venv/bin/python generate_images.py                  # 1,000 sequences, 64 pictures: a minute
    .venv/bin/python generate_images.py ntd --context 16 # plain infini-gram: copies whole images
    .venv/bin/python generate_images.py aligned --min-images 1 --seed 1
    .venv/bin/python generate_images.py aligned --help   # its options
    .venv/bin/python generate_images.py --seeds 8        # eight times as many, in one report

Of several processes each draws some of the seeds (RANK and WORLD_SIZE, see docs/cluster.md).

Reads data/index (from build_index.sh) and the token folders it was built from, for the held-out
images. Writes data/generated/kernel-seed0/: tokens, the image and position that each was drawn
from, images, sheets of them beside training images, and report.json (the files are described in
imagegram/generating.py). Prints, after the progress bars,

    ---
    out: data/generated/kernel-seed0
    exact_copies: 0.0 % (0.0 to 0.4)
    ...
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from imagegram.cli import one_of, run_script, summary
from imagegram.samplers import SAMPLERS, Kernel, Sampler

# The most coherent of the samplers that are as far from training images as real ones are.
SAMPLER = Kernel()

RENAMED = {
    "--method": "the name of the sampler alone, as in `generate_images.py aligned --context 2`",
    "--images": "--decoded",
    "--tokens": "--length",
    "--given": "--prompt",
    "--strips": "--prefixes",
}

if TYPE_CHECKING:
    AnySampler = Sampler
else:
    AnySampler = one_of({name: kind() for name, kind in SAMPLERS.items()} | {SAMPLER.name: SAMPLER})


@dataclass
class Config:
    sampler: AnySampler = field(default_factory=lambda: SAMPLER)
    length: int = 0  # first tokens drawn, the decoder fills in the rest; 0: all
    prompt: int = 0  # of these, first tokens taken from held-out images and completed
    sequences: int = 1000  # sampled and measured: a rate is then known to +-3 %
    decoded: int = 64  # of these, decoded; 0: figures only
    seed: int = 0  # the same seed draws the same sequences and pictures
    seeds: int = 1  # in one report, from `seed` on: sequences and decoded are those of each
    index: Path = Path("data/index")
    out: Path | None = None  # None: data/generated/SAMPLER-CHANGES-seedSEED
    codec: str = ""  # "": the one that made the tokens of the index
    timesteps: int = 0  # flow steps of a decode; 0: the codec's default
    guidance_scale: float = 0.0  # 0: the codec's default; 1: none
    prefixes: int = 4
    """sequences shown in prefixes.png and seeds.png; with 256 tokens each costs 15 more decodes"""


def default_out(config: Config) -> Path:
    """A folder whose name carries what differs from the default: no run replaces another."""
    changed = config.sampler.changes()
    for name in ("length", "prompt", "timesteps", "guidance_scale", "seeds"):
        if getattr(config, name) != getattr(Config, name):
            changed[name] = getattr(config, name)
    changed["seed"] = config.seed
    words = [config.sampler.name, *(f"{name}{value}" for name, value in changed.items())]
    return Path("data/generated") / "-".join(words)


def main(config: Config) -> None:
    # Imported here, so that --help need not wait for torch.
    from imagegram.codec import familiarity
    from imagegram.generating import Request, Run, open_codec
    from imagegram.index.folder import Index
    from imagegram.machine import Processes
    from imagegram.metrics.held_out import read_held_out
    from imagegram.metrics.intervals import from_json
    from imagegram.metrics.registry import COLUMNS
    from imagegram.samplers.draw import Draw

    index = Index.open(config.index)
    codec = open_codec(index, config.codec)
    held_out = read_held_out(index)
    corpus = f"{index.num_images:,} images of {index.tokens_per_image} tokens"
    print(f"{config.index}: {corpus}, {len(held_out.tokens):,} more are held out", flush=True)
    for folder in index.token_folders():
        if line := familiarity.warning_of(folder.path):
            print(line)
    request = Request(
        Draw(config.sampler, config.length, config.prompt),
        config.sequences,
        config.decoded,
        config.seed,
        prefixes=config.prefixes,
        noises=config.prefixes,
        timesteps=config.timesteps,
        guidance_scale=config.guidance_scale,
        seeds=config.seeds,
    )
    out = config.out or default_out(config)
    run = Run(index, codec, held_out, request, out, Processes.from_environment()).generate()
    if not run.new:
        print(f"{out} is finished with these settings, nothing to do")
    shown = from_json(run.report.get("generated", {}))
    summary(out=out, **{metric.key: metric.text(shown) for metric in COLUMNS})


if __name__ == "__main__":
    sys.exit(run_script(main, Config, __doc__, renamed=RENAMED))
