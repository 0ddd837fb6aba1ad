"""The whole experiment in a notebook: tokenize, index, sample, ask, decode, measure, look.

`import imagegram as ig` gives these functions. The scripts do the same with files on disk.
"""

from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from torch import Tensor

from imagegram.cli import UserError
from imagegram.data.dataset import DatasetOptions
from imagegram.data.spec import DatasetSpec
from imagegram.generating import Decoder, open_codec
from imagegram.index.build import build_index as build
from imagegram.index.folder import Index
from imagegram.metrics.copying import measure
from imagegram.metrics.held_out import read_held_out
from imagegram.options import Options
from imagegram.samplers import Sampler, Samples, sampler_named
from imagegram.token_arrays import tokens_from as tokens_from
from imagegram.tokenizing import tokenize_dataset
from imagegram.tokens import TokenFolder


def tokenize(
    dataset: str | Path, out: str | Path, *, codec: str = "", **options: Any
) -> TokenFolder:
    """Tokenize a data set into the folder `out`, or go on from what it holds.

    dataset: what `tokenize_fast.py --dataset` takes: "digits", "shapes", a folder of pictures,
    parquet files, tars, an .npz, a Hugging Face name. options: those of tokenize_fast.py, such as
    `images` or `label_column`. UserError on bad input, with the remedy.

    >>> tokens = tokenize("digits", "tokens", images=100)
    >>> tokens.load().tokens.shape
    (100, 16)
    """
    of_the_data = {field.name for field in fields(DatasetOptions)}
    known = of_the_data | {field.name for field in fields(Options)}
    if unknown := ", ".join(options.keys() - known):
        raise UserError(f"there is no option {unknown}: it is one of {', '.join(sorted(known))}")
    given = {name: options.pop(name) for name in of_the_data & options.keys()}
    spec = DatasetSpec(str(dataset), **given)
    return tokenize_dataset(spec, Path(out), Options(codec=codec, **options))


def build_index(tokens: TokenFolder | Sequence[TokenFolder], out: str | Path) -> Index:
    """Build, verify and open the suffix-array index of one token folder or several, in `out`.

    Held-out images stay out of it. A finished index of the same tokens is left as it is. UserError
    where `out` holds something else, or the folders have tokens of different codecs.

    >>> index = build_index(tokenize("digits", "tokens", images=100), "index")
    >>> index.tokens.shape == (index.num_images, 16)
    True
    """
    folders = [tokens] if isinstance(tokens, TokenFolder) else list(tokens)
    return build([folder.path for folder in folders], Path(f"{out}_input"), Path(out))


def open_index(path: str | Path) -> Index:
    """Open a finished index; UserError where there is none, or a file of it has changed.

    >>> built = build_index(tokenize("digits", "tokens", images=100), "index")
    >>> open_index("index").num_images == built.num_images
    True
    """
    return Index.open(Path(path))


def sample(
    index: Index,
    sampler: str | Sampler = "kernel",
    n: int = 64,
    *,
    seed: int = 0,
    length: int = 0,
    prompt: ArrayLike | None = None,
    **fields: Any,
) -> Samples:
    """Draw `n` token sequences, each token with the training image and position it came from.

    sampler: "kernel", "aligned", "smoothed", "ntd", with its fields by name (`context=2`), or a
    Sampler. length: tokens of each; 0: all. prompt: uint16 [n, p], their first tokens. Returns
    tokens uint16 [n, L] and sources int64 [n, L, 2]: row of `index.tokens` and position, -1 for
    prompt tokens. The same seed draws the same sequences. UserError on a field that does not exist.

    >>> index = build_index(tokenize("digits", "tokens", images=100), "index")
    >>> samples = sample(index, "aligned", 5, context=1)
    >>> row, position = samples.sources[0, 3]
    >>> bool(index.tokens[row, position] == samples.tokens[0, 3])
    True
    """
    prefix = None if prompt is None else np.asarray(prompt, np.uint16)
    rng = np.random.default_rng(seed)
    return sampler_named(sampler, **fields).sample(index, n, rng, length=length, prefix=prefix)


def log2_probability(
    index: Index, tokens: Samples | ArrayLike, sampler: str | Sampler = "kernel", **fields: Any
) -> NDArray[np.float64]:
    """log2 of the probability with which the sampler draws each sequence: float64 [n].

    tokens: samples, or uint16 [n, L]. -inf where one cannot be drawn. sampler, fields: of `sample`.

    >>> index = build_index(tokenize("digits", "tokens", images=100), "index")
    >>> samples = sample(index, "aligned", 5, context=1)
    >>> bool((log2_probability(index, samples, "aligned", context=1) < 0).all())
    True
    """
    with np.errstate(divide="ignore"):
        return np.log2(sampler_named(sampler, **fields).probabilities(index, _rows(tokens))).sum(1)


def decode(
    index: Index,
    tokens: Samples | ArrayLike,
    *,
    decoder: Callable[[NDArray[np.uint16]], Any] | None = None,
    seed: int = 0,
) -> Any:
    """Sequences -> images, uint8 [n, 3, S, S], by the codec that made the tokens of `index`.

    decoder: a function of your own instead, of tokens uint16 [n, L]; what it returns is returned.
    Image i starts from the noise of seed `1,000,000 * seed + i`, as in generate_images.py.
    UserError where the tokens have no codec (`tokens_from`) or its weights are not at hand.

    >>> index = build_index(tokenize("digits", "tokens", images=100), "index")
    >>> decode(index, index.tokens[:2]).shape
    torch.Size([2, 3, 32, 32])
    """
    rows = _rows(tokens)
    if decoder is not None:
        return decoder(rows)
    if not index.codec:
        no_codec = f"{index.path} holds tokens of no codec"
        raise UserError(f"{no_codec}: give a function of your own, decoder=")
    return Decoder(open_codec(index))(rows, seed * 1_000_000 + np.arange(len(rows)))


def evaluate(
    index: Index, samples: Samples | ArrayLike, *, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """What was copied: figures with 95 % intervals, of the samples and of held-out real images.

    samples: samples, or uint16 [n, L]. Returns {"generated": ..., "held_out": ...}, by the names
    of metrics (metrics/registry.py); the first alone where none are held out. seed: the bootstrap.

    >>> index = build_index(tokenize("digits", "tokens", images=100), "index")
    >>> figures = evaluate(index, sample(index, "ntd", 20, context=10))
    >>> figures["generated"]["exact_copies"].value
    1.0
    """
    return measure(_rows(samples), index, read_held_out(index).tokens, np.random.default_rng(seed))


def _rows(tokens: Samples | ArrayLike) -> NDArray[np.uint16]:
    return tokens.tokens if isinstance(tokens, Samples) else np.asarray(tokens, np.uint16)


def show(images: Tensor | NDArray[np.uint8], *, columns: int = 8) -> Image.Image:
    """A sheet of images, which a notebook displays; white where the last row is not full.

    images: uint8 [n, 3, S, S], or [n, S, S, 3].

    >>> show(np.zeros((10, 3, 32, 32), np.uint8)).size
    (256, 64)
    """
    pixels = np.asarray(images)
    if pixels.shape[1] == 3:
        pixels = pixels.transpose(0, 2, 3, 1)
    n, height, width, _ = pixels.shape
    columns = min(columns, n)
    sheet = Image.new("RGB", (columns * width, -(-n // columns) * height), "white")
    for i, picture in enumerate(pixels):
        sheet.paste(Image.fromarray(picture), (i % columns * width, i // columns * height))
    return sheet
