"""A night: tokenize, index, generate with every sampler; the page is written anew once in a
while."""

import contextlib
import shutil
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NoReturn

import numpy as np

from imagegram.artifact import Artifact
from imagegram.cli import UserError
from imagegram.codec import Codec
from imagegram.codec.linear_fit import FOLDER, open_linear
from imagegram.codec.sizes import is_linear, linear_folder, sizes_of
from imagegram.generating import Request, Run, generate, open_codec
from imagegram.index.build import build_index
from imagegram.index.folder import Index
from imagegram.metrics.coherence import open_classifiers
from imagegram.metrics.fidelity import open_fidelity
from imagegram.metrics.held_out import HeldOut, read_held_out
from imagegram.metrics.provenance import describe_pictures
from imagegram.options import Options
from imagegram.report import sheets
from imagegram.report.page import Sources, write_page, write_stopped_page
from imagegram.report.pictures import Originals
from imagegram.report.record import CLASSIFIERS, FIDELITY, FITS, HELD_OUT, Night
from imagegram.samplers import Kernel, Samples
from imagegram.samplers.draw import Draw
from imagegram.tokenizing import tokenize_dataset
from imagegram.tokens import TokenFolder
from overnight.plan import Plan

PAGE = "writing the page"
PAGE_EVERY = 300  # seconds, of which a page takes some; the last page of a night is always written
WORKERS = -1  # loader processes; -1: one for each core


def tokenize_all(plan: Plan, night: Night) -> list[TokenFolder]:
    """The tokens of every data set; UserError names those that failed when the others are
    tokenized."""
    folders = []
    for data in plan.data:
        try:
            options = Options(codec=plan.codec, workers=WORKERS)
            if is_linear(plan.codec) and len(plan.data) > 1 and not linear_folder(plan.codec):
                datasets = [one.open(sizes_of(plan.codec).image_size) for one in plan.data]
                # one for all of them
                open_linear(plan.codec, datasets, options.held_out_share, plan.out / FOLDER)
                options = replace(options, codec=str(plan.out / FOLDER))
            folders.append(tokenize_dataset(data, plan.token_folder(data), options))
        except (UserError, OSError) as error:
            fail(night, f"tokenizing {data.name}", error)
    if night.failed:
        stop(plan, night)
    return folders


def index_all(plan: Plan, night: Night, folders: list[TokenFolder]) -> Index:
    """The index over all of them; UserError where it cannot be built."""
    try:
        return build_index(
            [folder.path for folder in folders], plan.out / "index_input", plan.out / "index"
        )
    except (UserError, OSError) as error:
        fail(night, "building the index", error)
        stop(plan, night)


def fail(night: Night, step: str, error: Exception) -> None:
    """Record why a step failed, and say so."""
    night.failed[step] = str(error) or type(error).__name__
    print(f"error: {step}: {night.failed[step]}", file=sys.stderr)


def say_where(error: Exception) -> None:
    """The traceback of a fault of the program, in the midst of handling it; nothing of what users
    can put right."""
    if not isinstance(error, UserError | OSError):
        traceback.print_exc()


def stop(plan: Plan, night: Night) -> NoReturn:
    """UserError, and a page that says why, where a step failed that all samplers depend on."""
    with contextlib.suppress(UserError):  # a full disk: it was said on the terminal and in the log
        night.write(plan.out)
        write_stopped_page(plan.out, night)
    raise UserError(
        f"{', '.join(night.failed)} failed, as said above: no sampler was run; the same command "
        "goes on from there"
    )


def generate_all(
    plan: Plan, night: Night, folders: list[TokenFolder], index: Index, deadline: float
) -> None:
    """Every sampler's images, and the page; what fails is named, the others are finished all the
    same.

    No sampler begins after the `deadline`, of the monotonic clock.
    """
    try:
        codec = open_codec(index)
        held_out = read_held_out(index)
    except UserError as error:
        fail(night, "opening the index", error)
        stop(plan, night)

    # 1) What all of them are compared with, and what several of them need.
    requests = checked_requests(plan, night, index, codec)
    sources = Sources(plan.out, night, index, held_out, Originals(folders))
    real = Request(Draw(Kernel()), plan.sequences, plan.decoded, plan.seed)
    folder = night.folder(plan.out, HELD_OUT)
    attempt(
        night, HELD_OUT, folder, partial(reconstruct_held_out, index, codec, held_out, real, folder)
    )
    publish(sources, page=False)
    shown = time.monotonic()
    if shown < deadline:
        prepare(plan, night, sources, codec)

    # 2) The samplers. The page is written anew once in a while, and in the end, however that comes.
    try:
        for number, (name, request) in enumerate(requests.items(), 1):
            if name in night.failed:
                continue
            if time.monotonic() > deadline and not night.is_finished(plan.out, name):
                night.skipped.append(name)
                continue
            print(f"sampler {number} of {len(requests)}, {name}: {request.draw.describe()}")
            folder = night.folder(plan.out, name)
            attempt(night, name, folder, partial(generate, index, codec, held_out, request, folder))
            due = time.monotonic() - shown > PAGE_EVERY
            publish(sources, page=due)
            shown = time.monotonic() if due else shown
        if night.skipped:
            left_out = ", ".join(night.skipped)
            print(
                f"left out after {plan.hours:g} hours: {left_out}; the same command goes on from "
                "there"
            )
        night.failed.pop(PAGE, None)  # tried again
        night.complete = not night.failed
    finally:
        publish(sources)


def checked_requests(plan: Plan, night: Night, index: Index, codec: Codec) -> dict[str, Request]:
    """What every sampler is to make, checked before the first one is run; one that cannot be made
    has failed."""
    requests = {}
    for name, draw in plan.draws().items():
        requests[name] = Request(
            draw, plan.sequences, plan.decoded, plan.seed, prefixes=plan.prefixes
        )
        try:
            requests[name].completed(codec).check(index)
        except UserError as error:
            fail(night, name, error)
    return requests


def reconstruct_held_out(
    index: Index, codec: Codec, held_out: HeldOut, request: Request, out: Path
) -> Run:
    """Decode held-out images from their own tokens, in random order: what every gallery is compared
    with.

    Into `out` what `generate` writes for as many `request.decoded` as are held out; the sources of
    all tokens are the held-out image itself. The sampler of `request` does not matter.
    """
    request = request.completed(codec)
    asked = request.to_json(index, codec, held_out)
    asked = {"sampler": "held-out"} | {
        name: asked[name] for name in asked if name not in request.draw.to_json()
    }
    with Run(index, codec, held_out, request, out).locked(asked) as run:
        if run.new:
            chosen = run.rng.permutation(len(held_out.tokens))[: request.decoded]
            tokens = held_out.tokens[chosen]
            images = run.decode(Samples(tokens, np.full((*tokens.shape, 2), -1)))
            positions = np.broadcast_to(
                np.arange(tokens.shape[1])[None, :, None], (*tokens.shape, 1)
            )
            origins = np.broadcast_to(held_out.origins[chosen][:, None], (*tokens.shape, 2))
            facts = describe_pictures(index, tokens) if len(tokens) else []
            run.write(
                tokens, np.concatenate([origins, positions], 2), facts, sheets.as_pictures(images)
            )
    return run


def prepare(plan: Plan, night: Night, sources: Sources, codec: Codec) -> None:
    """Make what several samplers need and is kept beside the index, so that none of them is longer
    for it.

    What fails here fails in the samplers that need it, and is named there.
    """
    index = sources.index
    todo = [
        name
        for name in night.samplers
        if name not in night.failed and not night.is_finished(plan.out, name)
    ]

    def fit() -> None:
        for name in todo:
            with contextlib.suppress(UserError):
                night.draw(name).sampler.prepare(index)

    def measure_tokenizer() -> None:
        if classifiers := open_classifiers(index, sources.held_out, codec, index.tokens_per_image):
            open_fidelity(index, sources.held_out, classifiers, sources.originals.picture)

    train = partial(open_classifiers, index, sources.held_out, codec, index.tokens_per_image)
    steps: dict[str, Callable[[], object]] = {
        FITS: fit,
        CLASSIFIERS: train,
        FIDELITY: measure_tokenizer,
    }
    for step, make in steps.items():
        if not todo or (step != FITS and not plan.decoded):
            continue
        before = kept(plan.out)
        started = time.monotonic()
        with contextlib.suppress(UserError, OSError):
            make()
        if kept(plan.out) != before:
            night.seconds[step] = round(time.monotonic() - started, 1)
            print(f"{step} took {night.seconds[step]:.0f} s")


def kept(out: Path) -> dict[Path, int]:
    """The files beside the index that are made from it, and when they were."""
    return {file: file.stat().st_mtime_ns for file in out.glob("index-*")}


def publish(sources: Sources, *, page: bool = True) -> None:
    """Write night.json and the page of what is finished; where that fails, say so, and the night
    goes on."""
    try:
        sources.night.write(sources.out)
        if page:
            write_page(sources)
    except Exception as error:
        say_where(error)
        fail(sources.night, PAGE, error)


def attempt(night: Night, name: str, folder: Path, make: Callable[[], Run]) -> None:
    """Make one folder of images; where that fails, name it and say why, and free the space that its
    half took."""
    started = time.monotonic()
    try:
        result = make()
    except Exception as error:
        say_where(error)
        fail(night, name, error)
        artifact = Artifact(folder, "images")
        if artifact.is_ours() and not artifact.record():
            # of no use: on a full disk the page needs the room
            shutil.rmtree(folder, ignore_errors=True)
        return
    seconds = time.monotonic() - started
    if result.new:
        night.seconds[name] = round(seconds, 1)
    print(f"{result.path}: {f'generated in {seconds:.0f} s' if result.new else 'finished before'}")
