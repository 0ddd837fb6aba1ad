"""A data set through a codec into a token folder: what both tokenizing scripts run."""

import itertools
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from imagegram.artifact import Artifact
from imagegram.cli import UserError, summary
from imagegram.codec import Codec, familiarity, load_codec
from imagegram.codec.linear_fit import FOLDER, copy_linear, open_linear
from imagegram.codec.sizes import chosen, is_linear, linear_folder, sizes_of
from imagegram.data import duplicates
from imagegram.data.contents import ChangedError
from imagegram.data.dataset import ImageDataset
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
    one's share; the first process speaks for all, and waits for the others.

    The same call goes on from the shards that are finished. UserError on bad input.
    """
    options.check()
    artifact = Artifact(out, "tokens")
    artifact.check()  # before anything is loaded
    codec, dataset = open_both(spec, out, options)
    first, count = processes.rank == 0, processes.world_size
    if first:
        print("\n".join(dataset.describe()))
    with artifact.lock(processes.rank):
        folder = TokenFolder.create(out, manifest_of(spec, dataset, codec, options))
        run = Run(folder, dataset, codec, options, processes)
        if first:
            run.say_what_is_there()
        folder.check_readable()  # a run that was refused for its bad images is refused again
        if not run.pending:
            return folder
        run.require_space()
        started = time.monotonic()
        with run.progress.bar, worker_errors_as_user_errors():
            for shard, batches in run.shards():
                run.tokenize(shard, batches)
            if first:
                while artifact.others_at_work(count, started) and folder.pending():
                    time.sleep(0.5)
                    run.progress.look()
        if first:
            run.finish(time.monotonic() - started)
    return folder


def open_both(spec: DatasetSpec, out: Path, options: Options) -> tuple[Codec, ImageDataset]:
    """Codec and data set; a linear codec is fitted where the token folder has none yet."""
    name = chosen(options.codec, [spec.name])
    if not is_linear(name):
        codec = load_codec(name)
        return codec, spec.open(codec.image_size)
    dataset = spec.open(sizes_of(name).image_size)
    Artifact(out, "tokens").claim()
    place = out / FOLDER
    if fitted := linear_folder(name):
        return copy_linear(fitted, place), dataset
    return open_linear(name, [dataset], options.held_out_share, place, options.workers), dataset


def manifest_of(
    spec: DatasetSpec, dataset: ImageDataset, codec: Codec, options: Options
) -> Manifest:
    """What the tokens of a data set are."""
    of_codec = ("revision", "precision", "tokens_per_image", "vocab_size", "levels", "image_size")
    of_data = ("split", "fingerprint", "class_names", "image_column", "label_column", "group")
    return Manifest(
        dataset=spec,
        images=len(dataset),
        available=dataset.size,
        codec=codec.name,
        preprocessing=described(options.jpeg_margin),
        held_out_share=options.held_out_share,
        shard_size=options.shard_size,
        **{name: getattr(codec, name) for name in of_codec},
        **{name: getattr(dataset, name) for name in of_data},
    )


@dataclass
class Run:
    """One process's share: of n processes every n-th shard that was missing when it began."""

    folder: TokenFolder
    dataset: ImageDataset
    codec: Codec
    options: Options
    processes: Processes

    def __post_init__(self) -> None:
        rank, count = self.processes.rank, self.processes.world_size
        self.pending = self.folder.pending()
        self.mine = [shard for shard in self.pending if shard % count == rank]
        self.progress = Progress(self.folder, self.pending, self.mine, shown=rank == 0)

    def say_what_is_there(self) -> None:
        """Print what is finished, damaged and to do, and whether the codec knows such images."""
        folder = self.folder
        folder.write_bad()  # a run may have been killed before it did
        file = folder.path / familiarity.FILE
        judged = file.exists() or not self.pending
        if not judged and (found := familiarity.judge(self.codec, self.dataset)):
            write_json(file, asdict(found))
        if line := familiarity.warning_of(folder.path):
            print(line)
        if not self.pending:
            print(f"{folder.path}: all {folder.shards} shards are finished, nothing to tokenize")
            return
        for shard, problem in folder.damaged().items():
            print(f"{folder.path}: shard {shard}: {problem}; tokenized again")
        todo = f"{len(self.pending)} of {folder.shards} shards to tokenize with {self.codec.name}"
        count = self.processes.world_size
        print(f"{todo} in {count} process{'es' * (count > 1)}")

    def require_space(self) -> None:
        """UserError where the disk has no room for what is missing: every process has one shard
        beside the finished ones before it is renamed."""
        m = self.folder.manifest
        row = 2 * m.tokens_per_image + 4 + 8 + 8 * bool(m.group)  # tokens, label, hash, group
        shards = len(self.pending) + self.processes.world_size
        require_space(self.folder.path, shards * min(m.shard_size, m.images) * row)

    def shards(self) -> Iterator[tuple[int, Iterable[list[Item]]]]:
        """The shards of this process that are not finished, each with its images in batches.

        A batch never spans two shards: the bytes do not depend on who tokenizes what.
        """
        if not self.mine:
            return
        size = self.options.batch_size
        covered = {shard: self.folder.covered(shard).tolist() for shard in self.mine}
        batches = [
            rows[i : i + size] for rows in covered.values() for i in range(0, len(rows), size)
        ]
        how = self.codec.image_size, self.options.workers, self.options.jpeg_margin
        loaded = _ahead(load_batches(self.dataset, batches, *how))
        for shard, rows in covered.items():
            yield shard, itertools.islice(loaded, -(-len(rows) // size))

    def tokenize(self, shard: int, batches: Iterable[list[Item]]) -> None:
        """Encode and write a shard; its unreadable images are remembered with their reasons."""
        started = time.monotonic()
        tokens = [np.zeros((0, self.codec.tokens_per_image), np.uint16)]
        hashes = [np.zeros(0, np.uint64)]
        labels: dict[int, int] = {}  # of the readable images, by their ordinals
        bad: dict[int, str] = {}
        for batch in batches:
            if kept := [image for _, image, _, _ in batch if image is not None]:
                pixels = np.stack(kept)
                hashes.append(duplicates.perceptual_hashes(pixels))
                tokens.append(self.codec.encode(torch.from_numpy(pixels)))
            labels |= {ordinal: label for ordinal, _, label, reason in batch if not reason}
            bad |= {ordinal: reason for ordinal, _, _, reason in batch if reason}
            self.progress.add(len(batch))
        names = {ordinal: self.dataset.name_of(ordinal) for ordinal in bad}
        self._check_unchanged(shard, list(labels), bad)
        others = {"hashes": np.concatenate(hashes)}
        if self.dataset.groups is not None:
            others["groups"] = self.dataset.groups[list(labels)]
        found, classes = np.concatenate(tokens), np.array(list(labels.values()))
        seconds = time.monotonic() - started
        self.folder.write(shard, found, classes, bad, seconds, names, others)
        if bad:
            self.folder.write_bad()
            self.folder.check_readable()

    def _check_unchanged(self, shard: int, good: list[int], bad: dict[int, str]) -> None:
        """UserError where many images of a shard changed during the run, or the data set was away
        (e.g. unmounted) and may come back. A few that are gone while others are there are bad."""
        changed = [i for i, reason in bad.items() if reason.startswith(ChangedError.__name__)]
        if not changed:
            return
        dataset, images, example = self.dataset, len(good) + len(bad), changed[0]
        away = not good or dataset.has_changed(good[0])
        back = not dataset.has_changed(example)
        if away or back or too_many_bad(len(changed), images):
            raise UserError(
                f"{dataset.name} changed while it was tokenized: {len(changed)} of {images} "
                f"images of shard {shard} are not what they were, e.g. {dataset.name_of(example)} "
                f"({bad[example]}). The finished shards are kept: the same command goes on from "
                "them when the data set is back as it was"
            )

    def finish(self, seconds: float) -> None:
        """Collect bad images and near-duplicates across the split, and print the summary."""
        folder = self.folder
        bad = folder.write_bad()
        missing = folder.pending()
        folder.check_readable()
        if missing:
            print(
                f"{len(missing)} of {folder.shards} shards are missing: other processes may still "
                "be at work; if they have stopped, the same command goes on from the others"
            )
        elif line := _duplicates(folder, self.dataset):
            print(line)
        read = sum(len(folder.range(s)) for s in set(self.pending) - set(missing))
        summary(
            tokens=folder.path,
            images=folder.images(),
            bad_images=bad,
            seconds=round(seconds, 1),
            images_per_second=read / seconds,
        )


def _ahead(batches: Iterable[list[Item]]) -> Iterator[list[Item]]:
    """The same batches; the next one is fetched while this one is encoded."""
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


def _duplicates(folder: TokenFolder, dataset: ImageDataset) -> str:
    """Keep which held-out images are nearly a training image; the line on it, or ""."""
    shards = range(folder.shards)
    known = [kept for shard in shards if (kept := folder.hashes(shard)) is not None]
    out = np.concatenate([folder.held_out(shard) for shard in shards])
    if len(known) < len(shards) or not out.any():
        return ""
    ordinals = np.concatenate([folder.ordinals(shard) for shard in shards]).tolist()
    size = folder.manifest.image_size

    def picture(row: int) -> NDArray[np.uint8]:
        return preprocess(dataset.read(ordinals[row])[0], size).numpy()

    found = duplicates.across(np.concatenate(known), out, picture)
    pairs = [
        {
            "held_out": dataset.name_of(ordinals[pair.held_out]),
            "training": dataset.name_of(ordinals[pair.training]),
            "error": round(pair.error, 2),
        }
        for pair in found
    ]
    count, of = len({pair.held_out for pair in found}), int(out.sum())
    record = {"held_out_images": of, "near_duplicates": count, "pairs": pairs}
    write_json(folder.path / duplicates.FILE, record)
    said = f"near-duplicates: {count} of {of} held-out images are nearly a training image"
    if pairs:
        example = f"{pairs[0]['held_out']} of {pairs[0]['training']}"
        said += f", e.g. {example} ({duplicates.FILE} names all)"
    return said


class Progress:
    """One line for all processes: img/s of own images and the others' shards, and the time left."""

    def __init__(self, folder: TokenFolder, pending: list[int], mine: list[int], shown: bool):
        self.folder = folder
        self.others = set(pending) - set(mine) if shown else set()
        self.looked = time.monotonic()
        total = sum(len(folder.range(s)) for s in pending)
        # smoothing=0: the mean since the start; others' shards arrive in leaps.
        self.bar = tqdm(total=total, unit="img", desc="tokenizing", smoothing=0, disable=not shown)

    def add(self, images: int) -> None:
        self.bar.update(images)
        if time.monotonic() - self.looked > 5:
            self.look()

    def look(self) -> None:
        """Count what the other processes have finished since the last look."""
        finished = {s for s in self.others if not self.folder.problem(s)}
        self.others -= finished
        self.bar.update(sum(len(self.folder.range(s)) for s in finished))
        self.looked = time.monotonic()
