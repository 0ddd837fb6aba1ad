"""Tokens that other code made, as a token folder without a codec."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from imagegram.cli import UserError
from imagegram.data.dataset import group_keys
from imagegram.data.spec import DatasetSpec
from imagegram.manifest import Manifest
from imagegram.tokens import TokenFolder, check_tokens

FLEXTOK_LEVELS = (8, 8, 8, 5, 5, 5)
SHARD_SIZE = 100_000  # images of an array in a file


def _check_shape(tokens: NDArray[np.generic], where: str = "") -> None:
    if tokens.ndim != 2 or not np.issubdtype(tokens.dtype, np.integer) or not tokens.size:
        found = f"{tokens.dtype} {list(tokens.shape)}"
        raise UserError(f"{where}tokens are integers [images, tokens of each], not {found}")


def read_tokens(path: Path, vocab_size: int, length: int = 0) -> NDArray[np.uint16]:
    """Tokens of an .npy file: integers [N, `length` or any], below `vocab_size`; else UserError."""
    try:
        found = np.load(path, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read as .npy ({error}): np.save(FILE, tokens) writes one"
        ) from None
    _check_shape(found, f"{path}: ")
    if length and found.shape[1] != length:
        has = f"{found.shape[1]} tokens an image"
        raise UserError(f"{path} has {has}, the training images {length}")
    if found.min() < 0 or found.max() >= vocab_size:
        what = f"{path} holds tokens from {found.min()} to {found.max()}"
        remedy = "give its --levels (FSQ), or its --vocab-size"
        raise UserError(f"{what}, the vocabulary has {vocab_size}: {remedy}")
    return check_tokens(found, vocab_size)


def _column(values: ArrayLike, images: int, what: str) -> NDArray[Any]:
    """One value for every image; UserError where there are others."""
    found = np.asarray(values)
    if found.shape != (images,):
        raise UserError(f"{images} images have {images} {what}, not {list(found.shape)}")
    return found


def tokens_from(
    array: ArrayLike,
    out: str | Path,
    *,
    levels: Sequence[int] = FLEXTOK_LEVELS,
    vocab_size: int = 0,
    labels: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    held_out_share: float = 0.1,
) -> TokenFolder:
    """Make a token folder of tokens that your own code made, without a codec.

    array: integers [N, L], below the product of `levels`: digit i of an id has `levels[i]` values,
    the first one fastest (FSQ, Mentzer et al., 2023, arXiv:2309.15505); FlexTok's by default.
    vocab_size: of ids that are no such codes, as TiTok's 4,096. labels: [N], numbers or names;
    groups: [N], those of what must lie on one side of the held-out split, such as views of one
    object. A tenth of the rows is held out, chosen by a hash of the row number or of the group.
    UserError where a token is out of range, or `out` holds other tokens.

    >>> ids = np.random.default_rng(0).integers(0, 64_000, (50, 8))
    >>> tokens_from(ids, "mine", labels=["cat", "dog"] * 25).manifest.class_names
    ('cat', 'dog')
    """
    tokens = np.asarray(array)
    _check_shape(tokens)
    names, classes = np.zeros(0, str), np.full(len(tokens), -1)
    if labels is not None:
        names, classes = np.unique(_column(labels, len(tokens), "labels"), return_inverse=True)
    content = hashlib.sha256(np.ascontiguousarray(tokens, np.int64).tobytes() + classes.tobytes())
    others: dict[str, NDArray[np.uint64]] = {}
    if groups is not None:
        others["groups"] = group_keys(_column(groups, len(tokens), "groups").astype(str).tolist())
        content.update(others["groups"].tobytes())
    manifest = Manifest(
        dataset=DatasetSpec("array"),
        split="all",
        fingerprint=content.hexdigest()[:16],
        images=len(tokens),
        tokens_per_image=tokens.shape[1],
        vocab_size=vocab_size or int(np.prod(levels)),
        levels=() if vocab_size else tuple(map(int, levels)),
        held_out_share=held_out_share,
        shard_size=SHARD_SIZE,
        class_names=tuple(map(str, names)),
        group="given" if others else "",
    )
    folder = TokenFolder.create(Path(out), manifest)
    for shard in folder.pending():
        rows = folder.range(shard)
        part = slice(rows.start, rows.stop)
        mine = {kind: keys[part] for kind, keys in others.items()}
        folder.write(shard, tokens[part], classes[part], {}, 0.0, others=mine)
    return folder
