"""A night: tokenize, index, generate with every sampler; a page that grows meanwhile."""

import contextlib
import shutil
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import numpy as np

from imagegram.artifact import Artifact
from imagegram.cli import UserError
from imagegram.codec import Codec
from imagegram.codec.linear_fit import FOLDER, open_linear
from imagegram.codec.sizes import is_linear, linear_folder, sizes_of
from imagegram.generating import Request, Run, open_codec
from imagegram.index.build import build_index
from imagegram.index.folder import Index
from imagegram.metrics.coherence import Classifiers, open_classifiers
from imagegram.metrics.fidelity import open_fidelity
from imagegram.metrics.held_out import read_held_out
from imagegram.metrics.provenance import describe_pictures
from imagegram.options import Options
from imagegram.report import sheets
from imagegram.report.page import Sources, write_page, write_stopped_page
from imagegram.report.pictures import Originals
from imagegram.report.record import CLASSIFIERS, FIDELITY, FITS, HELD_OUT, Night
from imagegram.samplers import Kernel
from imagegram.samplers.draw import Draw
from imagegram.tokenizing import tokenize_dataset
from imagegram.tokens import TokenFolder
from overnight.plan import Plan

PAGE = "writing the page"
PAGE_EVERY = 300  # seconds, of which a page takes some; the last page of a night is always written
WORKERS = -1  # loader processes; -1: one for each core


def tokenize_all(plan: Plan, night: Night) -> list[TokenFolder]:
    """The tokens of every data set; UserError, when all are tried, names those that failed."""
    folders = []
    for data in plan.data:
        try:
            options = Options(codec=plan.codec, workers=WORKERS)
            if is_linear(plan.codec) and len(plan.data) > 1 and not linear_folder(plan.codec):
                # one codec for all of them
                datasets = [one.open(sizes_of(plan.codec).image_size) for one in plan.data]
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
    tokens = [folder.path for folder in folders]
    try:
        return build_index(tokens, plan.out / "index_input", plan.out / "index")
    except (UserError, OSError) as error:
        fail(night, "building the index", error)
        stop(plan, night)


def fail(night: Night, step: str, error: Exception) -> None:
    """Record the `error` that is being handled, and say so; of a fault of the program, which no
    user can put right, also where it happened."""
    if not isinstance(error, UserError | OSError):
        traceback.print_exc()
    night.failed[step] = str(error) or type(error).__name__
    print(f"error: {step}: {night.failed[step]}", file=sys.stderr)


def stop(plan: Plan, night: Night) -> NoReturn:
    """UserError, and a page that says why, where a step failed that all samplers depend on."""
    with contextlib.suppress(UserError):  # a full disk: it was said on the terminal and in the log
        night.write(plan.out)
        write_stopped_page(plan.out, night)
    what = f"{', '.join(night.failed)} failed, as said above"
    raise UserError(f"{what}: no sampler was run; the same command goes on from there")


def generate_all(
    plan: Plan, night: Night, folders: list[TokenFolder], index: Index, deadline: float
) -> None:
    """Every sampler's images, and the page; what fails is named, the others are finished.

    No sampler begins after the `deadline`, of the monotonic clock.
    """
    try:
        codec = open_codec(index)
        held_out = read_held_out(index)
    except UserError as error:
        fail(night, "opening the index", error)
        stop(plan, night)

    def run_of(name: str, draw: Draw, prefixes: int = 0) -> Run:
        request = Request(draw, plan.sequences, plan.decoded, plan.seed, prefixes)
        return Run(index, codec, held_out, request, night.folder(plan.out, name))

    # 1) What all samplers are compared with, and what several of them need.
    runs = {name: run_of(name, draw, plan.prefixes) for name, draw in plan.draws().items()}
    for name, run in runs.items():
        try:
            run.request.check(index)
        except UserError as error:
            fail(night, name, error)
    sources = Sources(plan.out, night, index, held_out, Originals(folders))
    attempt(night, HELD_OUT, run_of(HELD_OUT, Draw(Kernel())), reconstruct_held_out)
    publish(sources, page=False)
    shown = time.monotonic()
    if shown < deadline:
        prepare(plan, night, sources, codec)

    # 2) The samplers. The page is written anew once in a while, and in the end, however that comes.
    try:
        for number, (name, run) in enumerate(runs.items(), 1):
            if name in night.failed:
                continue
            if time.monotonic() > deadline and not night.is_finished(plan.out, name):
                night.skipped.append(name)
                continue
            print(f"sampler {number} of {len(runs)}, {name}: {run.request.draw.describe()}")
            attempt(night, name, run, Run.generate)
            due = time.monotonic() - shown > PAGE_EVERY
            publish(sources, page=due)
            shown = time.monotonic() if due else shown
        if night.skipped:
            what = f"left out after {plan.hours:g} hours: {', '.join(night.skipped)}"
            print(f"{what}; the same command goes on from there")
        night.failed.pop(PAGE, None)  # tried again
        night.complete = not night.failed
    finally:
        publish(sources)


def reconstruct_held_out(run: Run) -> None:
    """Decode held-out images in random order, which every gallery is compared with.

    Writes what `Run.generate` writes, for as many `decoded` as are held out; the source of a token
    is the held-out image itself. The sampler of the request does not matter.
    """
    of_the_draw = run.request.draw.to_json()
    asked = {name: value for name, value in run.asked().items() if name not in of_the_draw}
    with run.locked({"sampler": "held-out"} | asked):
        if not run.new:
            return
        rng = np.random.default_rng(run.request.seed)
        chosen = rng.permutation(len(run.held_out.tokens))[: run.request.decoded]
        tokens = run.held_out.tokens[chosen]
        images, _ = run.decode(tokens, run.request.seed)
        sources = np.empty((*tokens.shape, 3), np.int64)
        sources[..., :2] = run.held_out.origins[chosen][:, None]
        sources[..., 2] = np.arange(tokens.shape[1])
        facts = describe_pictures(run.index, tokens) if len(tokens) else []
        run.write(tokens, sources, facts, sheets.as_pictures(images))


def prepare(plan: Plan, night: Night, sources: Sources, codec: Codec) -> None:
    """Make what several samplers need and is kept beside the index.

    What fails here fails in the samplers that need it, and is named there.
    """
    index, held_out = sources.index, sources.held_out
    done = {*night.failed, *night.finished(plan.out)}
    todo = [name for name in night.samplers if name not in done]
    if not todo:
        return

    def fit() -> None:
        for name in todo:
            with contextlib.suppress(UserError):
                night.draw(name).sampler.prepare(index)

    def train() -> Classifiers | None:
        return open_classifiers(index, held_out, codec, index.tokens_per_image)

    def measure_tokenizer() -> None:
        if classifiers := train():
            open_fidelity(index, held_out, classifiers, sources.originals.picture)

    steps: dict[str, Callable[[], object]] = {FITS: fit}
    if plan.decoded:
        steps |= {CLASSIFIERS: train, FIDELITY: measure_tokenizer}
    for step, make in steps.items():
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
    """Write night.json and the page of what is finished; where that fails, say so, and go on."""
    try:
        sources.night.write(sources.out)
        if page:
            write_page(sources)
    except Exception as error:
        fail(sources.night, PAGE, error)


def attempt(night: Night, name: str, run: Run, make: Callable[[Run], object]) -> None:
    """Make one folder of images; where that fails, say why, and free the space of its half."""
    started = time.monotonic()
    try:
        make(run)
    except Exception as error:
        fail(night, name, error)
        artifact = Artifact(run.path, "images")
        if artifact.is_ours() and not artifact.record():
            # of no use: on a full disk the page needs the room
            shutil.rmtree(run.path, ignore_errors=True)
        return
    seconds = time.monotonic() - started
    if run.new:
        night.seconds[name] = round(seconds, 1)
    print(f"{run.path}: {f'generated in {seconds:.0f} s' if run.new else 'finished before'}")
