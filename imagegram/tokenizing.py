"""A data set through a codec into a token folder: what both tokenizing scripts run."""

import contextlib
import itertools
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from imagegram.artifact import Artifact
from imagegram.cli import UserError, summary
from imagegram.codec import Codec, familiarity, load_codec
from imagegram.codec.linear_fit import FOLDER, copy_linear, open_linear
from imagegram.codec.sizes import chosen, is_linear, linear_folder, sizes_of
from imagegram.data import duplicates
from imagegram.data.dataset import ChangedError, ImageDataset
from imagegram.data.loading import Item, load_batches, worker_errors_as_user_errors
from imagegram.data.preprocess import described, preprocess
from imagegram.data.spec import DatasetSpec
from imagegram.files import require_space, write_json
from imagegram.machine import ONE, Processes
from imagegram.manifest import Manifest
from imagegram.options import Options
from imagegram.tokens import TokenFolder, too_many_bad


def tokenize_dataset(
    spec: DatasetSpec, out: Path, options: Options, processes: Processes = ONE
) -> TokenFolder:
    """Tokenize the shards of a data set that `out` does not hold yet, of several `processes` this
    one's share.

    Finished shards are kept whatever happens later, and the same call goes on from them. UserError
    on bad input.
    """
    check(out, options)
    codec, dataset = open_both(spec, out, options)
    with tokenizing(spec, dataset, codec, out, options, processes) as run:
        for shard, batches in run.pending():
            run.write(shard, [codec.encode(images) for images in batches])
    return run.folder


def open_both(spec: DatasetSpec, out: Path, options: Options) -> tuple[Codec, ImageDataset]:
    """Codec and data set. A linear codec is fitted to the training images where it is not in the
    token folder yet."""
    name = chosen(options.codec, [spec.name])
    if not is_linear(name):
        codec = load_codec(name)
        return codec, spec.open(codec.image_size)
    dataset = spec.open(sizes_of(name).image_size)
    Artifact(out, "tokens").claim()
    if fitted := linear_folder(name):
        return copy_linear(fitted, out / FOLDER), dataset
    return open_linear(
        name, [dataset], options.held_out_share, out / FOLDER, options.workers
    ), dataset


def check(out: Path, options: Options) -> None:
    """UserError where the options make no sense, or `out` holds somebody else's files; nothing is
    loaded for that."""
    options.check()
    Artifact(out, "tokens").check()


@contextlib.contextmanager
def tokenizing(
    spec: DatasetSpec,
    dataset: ImageDataset,
    codec: Codec,
    out: Path,
    options: Options,
    processes: Processes = ONE,
) -> Iterator["Run"]:
    """Claim and lock `out`, say what there is to do, and in the end what was done; the body
    tokenizes.

    The first process speaks for all, and waits for the others.
    """
    manifest = manifest_of(spec, dataset, codec, options)
    artifact = Artifact(out, "tokens")
    first = processes.rank == 0
    count = processes.world_size
    if first:
        print("\n".join(dataset.describe()))
    with artifact.lock(processes.rank):
        folder = TokenFolder.create(out, manifest)
        pending = folder.pending()
        run = Run(
            folder, dataset, codec, options, [s for s in pending if s % count == processes.rank]
        )
        if first:
            run.say_what_is_there(pending, count)
        folder.check_readable()  # a run that was refused for its bad images is refused again
        if not pending:
            yield run
            return
        m = manifest  # every process has one shard beside the finished ones before it is renamed
        row = 2 * m.tokens_per_image + 4 + 8 + 8 * bool(m.group)
        require_space(out, (len(pending) + count) * min(m.shard_size, m.images) * row)
        started = time.monotonic()
        run.progress = _Progress(folder, pending, run.mine, shown=first)
        with run.progress.bar, worker_errors_as_user_errors():
            yield run
            while (
                first and count > 1 and folder.pending() and artifact.others_at_work(count, started)
            ):
                time.sleep(0.5)
                run.progress.look()
        if first:
            _finish(folder, dataset, pending, time.monotonic() - started)


@dataclass
class Run:
    """One process's share of the work: its shards, read ahead, with their labels and unreadable
    images."""

    folder: TokenFolder
    dataset: ImageDataset
    codec: Codec
    options: Options
    mine: list[int]
    progress: "_Progress" = field(init=False)
    items: list[Item] = field(default_factory=list)
    """of the shard that is being read, without pixels"""
    hashes: list[NDArray[np.uint64]] = field(default_factory=list)  # of its readable images
    started: float = 0.0  # when that was begun

    def say_what_is_there(self, pending: list[int], processes: int) -> None:
        """Print what is finished, damaged and still to do, and whether the codec knows such
        images."""
        folder = self.folder
        folder.write_bad()  # a run may have been killed before it did
        file = folder.path / familiarity.FILE
        if pending and not file.exists() and (found := familiarity.judge(self.codec, self.dataset)):
            write_json(file, asdict(found))
        if line := familiarity.warning_of(folder.path):
            print(line)
        if not pending:
            print(f"{folder.path}: all {folder.shards} shards are finished, nothing to tokenize")
            return
        for shard, problem in folder.damaged().items():
            print(f"{folder.path}: shard {shard}: {problem}; tokenized again")
        todo = f"{len(pending)} of {folder.shards} shards to tokenize with {self.codec.name}"
        print(f"{todo} in {processes} process{'es' * (processes > 1)}")

    def pending(self) -> Iterator[tuple[int, Iterator[Tensor]]]:
        """The shards of this process that are not finished, each with its images: uint8 [B, 3, S,
        S], in batches.

        A batch never spans two shards: the bytes do not depend on who tokenizes what.
        """
        size = self.options.batch_size
        covered = {shard: self.folder.covered(shard).tolist() for shard in self.mine}
        batches = [
            rows[i : i + size] for rows in covered.values() for i in range(0, len(rows), size)
        ]
        if not batches:
            return
        o = self.options
        loaded = _ahead(
            load_batches(self.dataset, batches, self.codec.image_size, o.workers, o.jpeg_margin)
        )
        for shard, rows in covered.items():
            self.items = []
            self.hashes = []
            self.started = time.monotonic()
            yield shard, self._images(itertools.islice(loaded, -(-len(rows) // size)))

    def _images(self, batches: Iterable[list[Item]]) -> Iterator[Tensor]:
        """The readable images of each batch; the others are remembered with their reasons."""
        for batch in batches:
            pixels = (
                np.stack(kept)
                if (kept := [image for _, image, _, _ in batch if image is not None])
                else None
            )
            self.items += [(ordinal, None, label, reason) for ordinal, _, label, reason in batch]
            if pixels is not None:
                self.hashes.append(duplicates.perceptual_hashes(pixels))
                yield torch.from_numpy(pixels)
            self.progress.add(len(batch))

    def write(self, shard: int, tokens: list[NDArray[np.uint16]]) -> None:
        """Write the shard that was read last, from the tokens of its batches."""
        nothing = np.zeros((0, self.codec.tokens_per_image), np.uint16)
        bad = {ordinal: reason for ordinal, _, _, reason in self.items if reason}
        labels = np.array([label for _, _, label, reason in self.items if not reason])
        names = {ordinal: self.dataset.name_of(ordinal) for ordinal in bad}
        _check_unchanged(self.folder, self.dataset, shard, bad, names)
        seconds = time.monotonic() - self.started
        others = {"hashes": np.concatenate([np.zeros(0, np.uint64), *self.hashes])}
        if self.dataset.groups is not None:
            others["groups"] = self.dataset.groups[
                [ordinal for ordinal, _, _, reason in self.items if not reason]
            ]
        self.folder.write(
            shard, np.concatenate([nothing, *tokens]), labels, bad, seconds, names, others
        )
        if bad:
            self.folder.write_bad()
            self.folder.check_readable()


def _ahead(batches: Iterable[list[Item]]) -> Iterator[list[Item]]:
    """Batches, of which the next one is fetched while this one is encoded, so that a GPU has work
    waiting."""
    source = iter(batches)
    pool = ThreadPoolExecutor(1)
    try:
        coming = pool.submit(next, source, None)
        while (batch := coming.result()) is not None:
            coming = pool.submit(next, source, None)
            yield batch
    finally:
        # stopped: nobody waits for what nobody will read
        pool.shutdown(wait=False, cancel_futures=True)


def _finish(folder: TokenFolder, dataset: ImageDataset, planned: list[int], seconds: float) -> None:
    """Collect the bad images, look for near-duplicates across the split, and print the summary;
    UserError where no image was good."""
    bad = folder.write_bad()
    good = folder.images()
    missing = folder.pending()
    folder.check_readable()
    if missing:
        print(
            f"{len(missing)} of {folder.shards} shards are missing: other processes may still be "
            "at work; if they have stopped, the same command goes on from the others"
        )
    elif line := _duplicates(folder, dataset):
        print(line)
    read = sum(len(folder.range(s)) for s in set(planned) - set(missing))
    summary(
        tokens=folder.path,
        images=good,
        bad_images=bad,
        seconds=round(seconds, 1),
        images_per_second=read / seconds,
    )


def _duplicates(folder: TokenFolder, dataset: ImageDataset) -> str:
    """Keep which held-out images are nearly a training image, by name; the line that says so, ""
    where none is held out."""
    hashes = [folder.hashes(shard) for shard in range(folder.shards)]
    known = [found for found in hashes if found is not None]
    out = np.concatenate([folder.held_out(shard) for shard in range(folder.shards)])
    if len(known) < len(hashes) or not out.any():
        return ""
    ordinals = np.concatenate([folder.ordinals(shard) for shard in range(folder.shards)])
    size = folder.manifest.image_size
    found = duplicates.across(
        np.concatenate(known),
        out,
        lambda row: preprocess(dataset.read(int(ordinals[row]))[0], size).numpy(),
    )
    rows = [
        {
            "held_out": dataset.name_of(int(ordinals[pair.held_out])),
            "training": dataset.name_of(int(ordinals[pair.training])),
            "error": round(pair.error, 2),
        }
        for pair in found
    ]
    count = len({pair.held_out for pair in found})
    write_json(
        folder.path / duplicates.FILE,
        {"held_out_images": int(out.sum()), "near_duplicates": count, "pairs": rows},
    )
    example = (
        f", e.g. {rows[0]['held_out']} of {rows[0]['training']} ({duplicates.FILE} names all)"
        if rows
        else ""
    )
    return (
        f"near-duplicates: {count} of {out.sum()} held-out images are nearly a training "
        f"image{example}"
    )


class _Progress:
    """One line with img/s and the time left for all processes: own images, and the others' finished
    shards."""

    def __init__(self, folder: TokenFolder, pending: list[int], mine: list[int], shown: bool):
        self.folder = folder
        self.others = set(pending) - set(mine)
        self.looked = time.monotonic()
        self.shown = shown
        total = sum(len(folder.range(s)) for s in pending)
        # smoothing=0: the mean since the start; others' shards arrive in leaps that a moving
        # average would follow.
        self.bar = tqdm(total=total, unit="img", desc="tokenizing", smoothing=0, disable=not shown)

    def add(self, images: int) -> None:
        self.bar.update(images)
        if time.monotonic() - self.looked > 5:
            self.look()

    def look(self) -> None:
        """Count what the other processes have finished since the last look."""
        finished = (
            set() if self.bar.disable else {s for s in self.others if not self.folder.problem(s)}
        )
        self.others -= finished
        self.bar.update(sum(len(self.folder.range(s)) for s in finished))
        self.looked = time.monotonic()


def manifest_of(
    spec: DatasetSpec, dataset: ImageDataset, codec: Codec, options: Options
) -> Manifest:
    """What the tokens of a data set are."""
    return Manifest(
        dataset=spec,
        split=dataset.split,
        fingerprint=dataset.fingerprint,
        images=len(dataset),
        codec=codec.name,
        revision=codec.revision,
        precision=codec.precision,
        tokens_per_image=codec.tokens_per_image,
        vocab_size=codec.vocab_size,
        levels=codec.levels,
        image_size=codec.image_size,
        preprocessing=described(options.jpeg_margin),
        held_out_share=options.held_out_share,
        shard_size=options.shard_size,
        class_names=dataset.class_names,
        image_column=dataset.image_column,
        label_column=dataset.label_column,
        available=dataset.size,
        group=dataset.group,
    )


def _check_unchanged(
    folder: TokenFolder,
    dataset: ImageDataset,
    shard: int,
    bad: dict[int, str],
    names: dict[int, str],
) -> None:
    """UserError where many images of a shard changed during the run, or the data set was
    unavailable (e.g. unmounted).

    Such a shard is not finished: the images may come back. A few that are gone while others are
    there are bad images.
    """
    changed = [
        ordinal for ordinal, reason in bad.items() if reason.startswith(ChangedError.__name__)
    ]
    if not changed:
        return
    covered = folder.range(shard)
    good = [ordinal for ordinal in folder.covered(shard).tolist() if ordinal not in bad]
    away = not good or dataset.has_changed(good[0])
    back = not dataset.has_changed(changed[0])
    if away or back or too_many_bad(len(changed), len(covered)):
        raise UserError(
            f"{dataset.name} changed while it was tokenized: {len(changed)} of {len(covered)} "
            f"images of shard {shard} are not what they were, e.g. {names[changed[0]]} "
            f"({bad[changed[0]]}). The finished shards are kept: the same command goes on from "
            "them when the data set is back as it was"
        )
