"""The figures and pictures of docs/emoji.md: what two codecs keep of emoji and photographs, and
what is drawn on them.

    .venv/bin/python overnight_run.py --dataset emoji --out data/emoji
    .venv/bin/python train_tiny_flextok.py --dataset emoji --image-size 64 --tokens 64 \\
        --levels 8 8 8 5 5 5 --encoder-steps 6000 --out data/emoji_codec
    .venv/bin/python -m experiments.emoji_pictures data/emoji \\
        --trained data/emoji_codec/training/encoder.pt

Prints the page's tables, and writes docs/emoji_reconstructions.png, docs/photographs_linear.jpg and
docs/samplers_emoji.png. Of a miniature its encoder is enough (the training may be stopped after
it): its tokens are drawn by the decoder that it is trained with. Photographs are those that
scikit-image and scikit-learn carry (`uv pip install scikit-image`), and EfficientNet-Lite0 that of
requirements-features.txt; what is missing is said and left out. With a miniature a quarter of an
hour, most of it the kernel's fit to its tokens.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm
from tyro.conf import Positional

from experiments.common import Corpus, print_head, print_row
from imagegram.cli import run_script, summary
from imagegram.codec import Codec
from imagegram.codec.decoding import Decoder
from imagegram.codec.linear import LinearCodec, save
from imagegram.codec.linear_fit import fit
from imagegram.codec.sizes import Sizes
from imagegram.codec.tiny_flextok import TinyConfig, TinyFlexTok
from imagegram.data.dataset import ImageDataset
from imagegram.data.preprocess import preprocess, to_bytes, to_signed
from imagegram.files import atomic, read_json
from imagegram.generating import open_codec
from imagegram.index.build import build_index
from imagegram.index.folder import Index
from imagegram.metrics.copying import nearest
from imagegram.metrics.features import Network, efficientnet
from imagegram.metrics.intervals import Figure, bootstrap, from_json, wilson
from imagegram.metrics.registry import IN_SHORT
from imagegram.metrics.sets import frechet
from imagegram.report.record import Night
from imagegram.report.sheets import as_picture, rows_of_images
from imagegram.samplers import Sampler
from imagegram.token_arrays import tokens_from
from imagegram.tokens import Prefixes
from overnight_run import SAMPLERS
from training.losses import Regression

Row = tuple[torch.Tensor, torch.Tensor | None]  # images, and what stands below them

KEPT = (1, 4, 16, 64)  # tokens
SHOWN = 12  # images of a picture of reconstructions
SIDE = 64  # pixels
SIZES = Sizes(SIDE, 64)  # of both codecs
PHOTOGRAPHS = {
    "skimage": (
        "astronaut brick camera chelsea clock_motion coffee coins grass gravel hubble_deep_field "
        "moon motorcycle_left retina rocket"
    ),
    "sklearn": "china flower",
}
CROPS = 25  # of each photograph
ROWS = {  # of the picture of samples
    "kernel": "kernel n-gram (the default)",
    "kernel-near": "the same with smaller steps",
    "aligned": "equal contexts of two tokens, at their position",
    "smoothed": "the same, smoothed",
    "ntd": "infini-gram, two tokens of context",
    "unigram": "independent tokens",
}
COLUMNS = 16  # images in a row, of all codecs together


@dataclass
class Config:
    night: Positional[Path]  # a finished one, on emoji with the linear codec
    trained: Path | None = None  # the checkpoint of a miniature's encoder, of 64 pixels and tokens
    docs: Path = Path("docs")
    photographs: Path = Path("data/photographs")
    """where the crops are written, a folder for overnight_run.py"""


def found_again(
    rebuilt: NDArray[np.float64], originals: NDArray[np.float64], same: NDArray[np.bool_]
) -> Figure:
    """Of how many rebuilt images [n, F] the nearest original (by the angle of the features) shows
    the `same` [n, n]."""
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (rebuilt, originals))
    return wilson(int(same[np.arange(len(a)), (a @ b.T).argmax(1)].sum()), len(a))


def cells(
    images: torch.Tensor, rebuilt: torch.Tensor, same: NDArray[np.bool_], network: Network | None
) -> tuple[str, str, str]:
    """Error in grey levels, Frechet distance, and the share that is found again."""
    squares = (rebuilt.double() - images).square().mean((1, 2, 3)).numpy()
    rng = np.random.default_rng(0)
    error = bootstrap(lambda found: float(np.sqrt(found.mean())), (squares,), rng)
    if network is None:
        return f"{error}", "-", "-"

    def features(pictures: torch.Tensor) -> NDArray[np.float64]:
        return np.concatenate([network(part) for part in pictures.split(64)]).astype(float)

    real, made = features(images), features(rebuilt)
    return f"{error}", f"{frechet(real, made):.0f}", f"{found_again(made, real, same)}"


def crops(folder: Path) -> tuple[torch.Tensor, NDArray[np.int64]]:
    """CROPS of each of PHOTOGRAPHS, uint8 [n, 3, SIDE, SIDE], and of which [n]; written into
    `folder` as well."""
    rng = np.random.default_rng(0)
    images: list[torch.Tensor] = []
    numbers: list[int] = []
    folder.mkdir(parents=True, exist_ok=True)
    for package, names in PHOTOGRAPHS.items():
        place = find_spec(package)
        if place is None or place.origin is None:
            print(f"no photographs of {package}: it is not installed")
            continue
        for name in names.split():
            (file,) = Path(place.origin).parent.glob(f"**/{name}.*g")
            picture = Image.open(file).convert("RGB")
            for i in range(CROPS):
                side = int(min(picture.size) * rng.uniform(0.3, 1))
                left, top = (int(rng.integers(0, length - side + 1)) for length in picture.size)
                crop = preprocess(picture.crop((left, top, left + side, top + side)), SIDE)
                as_picture(crop).save(folder / f"{name}-{i:02d}.png")
                images.append(crop)
                numbers.append(len(numbers) // CROPS)
    return torch.stack(images), np.array(numbers)


def of_other_photographs(images: torch.Tensor, numbers: NDArray[np.int64]) -> list[torch.Tensor]:
    """Crops from 1, 4, ... tokens of a linear codec that was fitted to crops of other photographs,
    in two halves."""
    rebuilt = [torch.zeros_like(images) for _ in KEPT]
    for half in (0, 1):
        mine = torch.from_numpy(numbers % 2 == half)
        with TemporaryDirectory() as folder:
            save(Path(folder), **fit(images[~mine].numpy(), SIZES))
            codec = LinearCodec(Path(folder), "linear")
        tokens = codec.encode(images[mine])
        for whole, kept in zip(rebuilt, KEPT, strict=True):
            whole[mine] = codec.decode(tokens[:, :kept])
    return rebuilt


def rebuild(codec: Codec, images: torch.Tensor) -> list[torch.Tensor]:
    """Images from 1, 4, ... of their tokens."""
    tokens = np.concatenate([codec.encode(part) for part in images.split(256)])
    return [Decoder(codec)([row[:kept] for row in tokens]) for kept in KEPT]


class ByRegression:
    """A miniature's encoder, and the decoder that it was trained with: of all decoders about the
    one with the least squared error. From `checkpoint`, a training's encoder.pt."""

    name = "encoder of a miniature"
    revision = precision = ""
    timesteps = 1
    guidance_scale = 1.0
    own_error: tuple[float, float] | None = None
    image_size = SIDE
    tokens_per_image = SIZES.tokens_per_image
    levels = SIZES.levels
    vocab_size = math.prod(levels)

    def __init__(self, checkpoint: Path) -> None:
        self.model = TinyFlexTok(TinyConfig(SIDE, SIDE // 8, self.tokens_per_image, self.levels))
        self.regression = Regression(self.tokens_per_image * len(self.levels), SIDE)
        both = torch.nn.ModuleList([self.model.encoder, self.regression])
        both.load_state_dict(torch.load(checkpoint, weights_only=True)["average"])
        both.eval()

    @torch.inference_mode()
    def encode(self, images: torch.Tensor) -> NDArray[np.uint16]:
        tokens = [self.model.tokenize(part) for part in to_signed(images).split(64)]
        return np.concatenate([row.numpy().astype(np.uint16) for rows in tokens for row in rows])

    @torch.inference_mode()
    def decode(
        self, tokens: Prefixes, seeds: Sequence[int], timesteps: int, guidance_scale: float
    ) -> torch.Tensor:
        whole = np.zeros((len(tokens), self.tokens_per_image), np.int64)
        for row, given in zip(whole, tokens, strict=True):
            row[: len(given)] = given
        codes = self.model.fsq.to_codes(torch.from_numpy(whole))
        return to_bytes(self.regression(codes, torch.tensor([len(row) for row in tokens]))[0])


def pictures(data: ImageDataset, ordinals: NDArray[np.int64]) -> torch.Tensor:
    """The pictures at `ordinals`, uint8 [n, 3, SIDE, SIDE]."""
    read = tqdm(ordinals.tolist(), desc="reading emoji", unit="img", delay=3)
    return torch.stack([preprocess(data.read(i)[0], SIDE) for i in read])


def index_of(codec: Codec, corpus: Corpus, out: Path) -> Index:
    """The index, in `out`, of another codec's tokens of the training images of `corpus`."""
    data = corpus.index.token_folders()[0].manifest.dataset.open(SIDE)
    images = pictures(data, corpus.index.images[:, 1])
    read = tqdm(images.split(64), desc="tokenizing training emoji", unit="batch", delay=3)
    tokens = np.concatenate([codec.encode(part) for part in read])
    folder = tokens_from(tokens, out / "tokens", held_out_share=0)
    return build_index([folder.path], out / "index_input", out / "index")


def reconstructions(
    title: str,
    images: torch.Tensor,
    same: NDArray[np.bool_],
    by_codec: dict[str, list[torch.Tensor]],
    network: Network | None,
) -> Image.Image:
    """Print the table of a set of images; a picture of some of them, as each codec rebuilds
    them."""
    print(f"\n**{title}**, {len(images)} images\n")
    print_head("tokens", "codec", "error", "FD", "found again")
    shown = torch.from_numpy(np.random.default_rng(0).permutation(len(images))[:SHOWN])
    rows = []
    for i, kept in enumerate(KEPT):
        for codec, rebuilt in by_codec.items():
            print_row(kept, codec, *cells(images, rebuilt[i], same, network))
            rows.append((f"{kept} token{'s' * (kept > 1)}, {codec}", rebuilt[i][shown]))
    return rows_of_images([*rows, ("original", images[shown])])


def held_out_emoji(corpus: Corpus) -> tuple[torch.Tensor, NDArray[np.bool_]]:
    """The held-out emoji, uint8 [n, 3, SIDE, SIDE], and which of them [n, n] have the same code
    point."""
    data = corpus.index.token_folders()[0].manifest.dataset.open(SIDE)
    ordinals = corpus.held_out.origins[:, 1]
    assert data.groups is not None
    groups = data.groups[ordinals]
    return pictures(data, ordinals), groups[:, None] == groups


def print_samplers(night: Path) -> None:
    """The table of a night's figures."""
    record = Night.read(night)
    folders = {name: record.folder(night, name) for name in record.finished(night)}
    reports = {f"`{name}`": read_json(path / "report.json") for name, path in folders.items()}
    rows = {name: report["generated"] for name, report in reports.items()}
    rows["*held out*"] = next(iter(reports.values()))["held_out"]
    print("\n**Samplers on the linear codec**\n")
    print_head("sampler", *(metric.title for metric in IN_SHORT))
    for name, figures in rows.items():
        found = from_json(figures)
        print_row(name, *(metric.text(found) for metric in IN_SHORT))


def sample_rows(codec: Codec, index: Index, real: NDArray[np.uint16], columns: int) -> list[Row]:
    """For each of ROWS some images, of seed 0, and their nearest training images, by the same
    codec; then `real` ones, from their tokens [n, L]."""
    decode = Decoder(codec)
    rows: list[Row] = []
    for name in ROWS:
        sampler = SAMPLERS[name]
        assert isinstance(sampler, Sampler)
        tokens = sampler.sample(index, columns, np.random.default_rng(0)).tokens
        rows.append((decode(tokens), decode(index.tokens[nearest(tokens, index.tokens)[0]])))
    return [*rows, (decode(real), None)]


def samples_picture(by_codec: dict[str, list[Row]]) -> Image.Image:
    """Labelled rows, each image above its nearest training image; a block of columns for each
    codec."""
    cell, label, between = SIDE + 3, 26, 24
    first = next(iter(by_codec.values()))
    block = len(first[0][0]) * cell + between
    labels = [f"{words}; below each its nearest training image" for words in ROWS.values()]
    labels.append("real emoji that were held out, from their own tokens")
    heights = [label + cell * (1 + (below is not None)) + 6 for _, below in first]
    sheet = Image.new("RGB", (len(by_codec) * block - between, 24 + sum(heights)), "white")
    draw = ImageDraw.Draw(sheet)
    for b, (codec, rows) in enumerate(by_codec.items()):
        draw.text((b * block, 2), codec, "#111", ImageFont.load_default(18))
        top = 24
        for (above, below), words, height in zip(rows, labels, heights, strict=True):
            draw.text((b * block, top + 6), words, "#555", ImageFont.load_default(14))
            for r, images in enumerate((above, below)):
                for c, image in enumerate(() if images is None else images):
                    sheet.paste(as_picture(image), (b * block + c * cell, top + label + r * cell))
            top += height
    return sheet


def write(picture: Image.Image, path: Path) -> Path:
    with atomic(path) as temporary:
        if path.suffix == ".jpg":
            picture.save(temporary, "JPEG", quality=85)
        else:  # of 256 colours: a third of the size
            picture.quantize(256, dither=Image.Dither.NONE).save(temporary, "PNG", optimize=True)
    return path


def main(config: Config) -> None:
    corpus = Corpus.open(config.night / "index")
    codecs = {"linear": open_codec(corpus.index)}
    indexes = {"linear": corpus.index}
    if config.trained:
        mine = ByRegression(config.trained)
        codecs[mine.name] = mine
        indexes[mine.name] = index_of(mine, corpus, config.night / "miniature")
    network = efficientnet()
    if network is None:
        remedy = "uv pip install -r requirements-features.txt"
        print(f"no FD and no search, for want of EfficientNet-Lite0: {remedy}")
    paths = {}

    # 1) What the codecs keep.
    images, same = held_out_emoji(corpus)
    rebuilt = {name: rebuild(codec, images) for name, codec in codecs.items()}
    picture = reconstructions("Held-out emoji", images, same, rebuilt, network)
    paths["emoji"] = write(picture, config.docs / "emoji_reconstructions.png")
    photographs, numbers = crops(config.photographs)
    rebuilt = {f"{name}, of emoji": rebuild(codec, photographs) for name, codec in codecs.items()}
    rebuilt["linear, of other photographs"] = of_other_photographs(photographs, numbers)
    same = np.eye(len(photographs)) > 0
    picture = reconstructions("Crops of photographs", photographs, same, rebuilt, network)
    paths["photographs"] = write(picture, config.docs / "photographs_linear.jpg")

    # 2) What the samplers make of their tokens.
    print_samplers(config.night)
    columns = COLUMNS // len(codecs)
    real = images[np.random.default_rng(0).permutation(len(images))[:columns]]
    blocks = {}
    for name, codec in codecs.items():
        blocks[name] = sample_rows(codec, indexes[name], codec.encode(real), columns)
    paths["samplers"] = write(samples_picture(blocks), config.docs / "samplers_emoji.png")
    summary(**paths)


if __name__ == "__main__":
    sys.exit(run_script(main, Config, __doc__))
