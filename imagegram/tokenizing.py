"""A data set through a codec into a token folder: what both tokenizing scripts run."""

import shutil
import time
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from imagegram.codec import Codec, load_codec
from imagegram.common import UserError, run_lock, summary
from imagegram.images import PREPROCESSING, Source, load_batches, open_dataset
from imagegram.shards import Manifest, TokenFolder

MAX_BAD_SHARE, MAX_BAD = 0.01, 100  # more unreadable images than both: something is wrong with the data


def tokenize_dataset(
    dataset: str,
    out: Path,
    codec: str = "tiny",
    split: str = "train",
    images: int = 0,
    image_column: str = "",
    label_column: str = "",
    batch_size: int = 256,
    workers: int = -1,
    held_out_share: float = 0.1,
    shard_size: int = 10_000,
    rank: int = 0,
    world_size: int = 1,
) -> TokenFolder:
    """Tokenize the shards of `dataset` that `out` does not hold yet; every `world_size`-th one, from `rank` on.

    Finished shards are kept whatever happens later, and the same call goes on from them. UserError on bad input.
    """
    model = load_codec(codec)
    source = open_dataset(dataset, split, images, model.image_size, image_column, label_column)
    manifest = _manifest(source, model, held_out_share, shard_size)
    with run_lock(out, f".lock-{rank}"):
        folder = TokenFolder.create(out, manifest)
        mine = [s for s in folder.pending() if s % world_size == rank]
        if not mine:
            print(f"{out}: all {folder.shards} shards are finished, nothing to tokenize")
            return folder
        _check_space(folder, len(mine))
        if source.flaw:
            print(f"warning: {source.flaw}")
        print(
            f"{source.name}: {len(source)} images, {len(mine)} of {folder.shards} shards to tokenize with {model.name}"
        )
        started = time.monotonic()
        done = _tokenize_shards(folder, source, model, mine, batch_size, workers)
        bad = folder.write_bad()
        seconds = time.monotonic() - started
        summary(
            tokens=out,
            images=done,
            bad_images=bad,
            seconds=round(seconds, 1),
            images_per_second=done / seconds,
        )
    return folder


def _manifest(source: Source, codec: Codec, held_out_share: float, shard_size: int) -> Manifest:
    return Manifest(
        dataset=source.name,
        split=source.split,
        fingerprint=source.fingerprint,
        images=len(source),
        codec=codec.name,
        revision=codec.revision,
        precision=codec.precision,
        tokens_per_image=codec.tokens_per_image,
        vocab_size=codec.vocab_size,
        levels=codec.levels,
        image_size=codec.image_size,
        preprocessing=PREPROCESSING,
        held_out_share=held_out_share,
        shard_size=shard_size,
        class_names=source.class_names,
        image_column=source.image_column,
        label_column=source.label_column,
    )


def _check_space(folder: TokenFolder, shards: int) -> None:
    m = folder.manifest
    need = 2 * shards * m.shard_size * (2 * m.tokens_per_image + 4)  # twice: each file is written beside, then renamed
    free = shutil.disk_usage(folder.path).free
    if free < need:
        raise UserError(f"{folder.path} needs {need / 1e6:.0f} MB, {free / 1e6:.0f} MB are free: make room first")


def _tokenize_shards(
    folder: TokenFolder, source: Source, codec: Codec, shards: list[int], batch_size: int, workers: int
) -> int:
    """Tokenize `shards` one after another; returns the number of images read."""
    batches, ends = [], []  # a batch never spans two shards: the bytes do not depend on who tokenizes what
    for shard in shards:
        covered = list(folder.range(shard))
        batches += [covered[i : i + batch_size] for i in range(0, len(covered), batch_size)]
        ends.append(len(batches))
    tokens, labels, bad = [np.zeros((0, codec.tokens_per_image), np.uint16)], list[int](), dict[int, str]()
    total, all_bad, started = 0, 0, time.monotonic()
    planned = sum(map(len, batches))
    with tqdm(total=planned, unit="img", desc="tokenizing", smoothing=0.05) as progress:
        for number, batch in enumerate(load_batches(source, batches, codec.image_size, workers), 1):
            good = [(image, label) for _, image, label, _ in batch if image is not None]
            if good:
                tokens.append(codec.encode(torch.from_numpy(np.stack([image for image, _ in good]))))
            labels += [label for _, label in good]
            bad |= {ordinal: reason for ordinal, image, _, reason in batch if image is None}
            progress.update(len(batch))
            if number == ends[0]:
                folder.write(shards[0], np.concatenate(tokens), np.array(labels), bad, time.monotonic() - started)
                total, all_bad = total + len(labels), all_bad + len(bad)
                tokens, labels, bad, started = tokens[:1], [], {}, time.monotonic()
                shards, ends = shards[1:], ends[1:]
                if all_bad > MAX_BAD and all_bad > MAX_BAD_SHARE * (total + all_bad):
                    folder.write_bad()
                    raise UserError(
                        f"{all_bad} of {total + all_bad} images cannot be read: see {folder.path}/bad.jsonl"
                    )
    if total == 0:
        folder.write_bad()
        raise UserError(f"none of the {planned} images can be read: see {folder.path}/bad.jsonl")
    return total
