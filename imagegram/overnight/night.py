"""A night: tokenize, index, generate with every sampler; the page is written anew after each of them."""

import contextlib
import shutil
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import NoReturn

from imagegram.cli import UserError
from imagegram.generating import (
    Generated,
    Request,
    differences,
    finished,
    generate,
    open_codec,
    reconstruct_held_out,
)
from imagegram.index.build import build_index
from imagegram.index.folder import Index
from imagegram.measure.control import read_control
from imagegram.measure.prediction import held_out_figures
from imagegram.overnight.plan import Plan
from imagegram.report.night import FILE, HELD_OUT, Night
from imagegram.report.page import Sources, write_page, write_stopped_page
from imagegram.report.thumbnails import Originals
from imagegram.sampling.settings import Settings
from imagegram.tokenizing import Options, tokenize_dataset
from imagegram.tokens import TokenFolder

PAGE = "writing the page"
WORKERS = -1  # loader processes; -1: one for each core


def tokenize_all(plan: Plan, night: Night) -> list[TokenFolder]:
    """The tokens of every data set; UserError names those that failed when the others are tokenized."""
    folders = []
    for data in plan.data:
        options = Options(
            codec=plan.codec,
            split=data.split,
            images=data.images,
            image_column=data.image_column,
            label_column=data.label_column,
            workers=WORKERS,
        )
        try:
            folders.append(tokenize_dataset(data.name, plan.token_folder(data), options))
        except (UserError, OSError) as error:
            fail(night, f"tokenizing {data.name}", error)
    if night.failed:
        stop(plan, night)
    return folders


def index_all(plan: Plan, night: Night, folders: list[TokenFolder]) -> Index:
    """The index over all of them; UserError where it cannot be built."""
    try:
        return build_index([folder.path for folder in folders], plan.out / "index_input", plan.out / "index")
    except (UserError, OSError) as error:
        fail(night, "building the index", error)
        stop(plan, night)


def fail(night: Night, step: str, error: Exception) -> None:
    """Record why a step failed, and say so."""
    night.failed[step] = str(error) or type(error).__name__
    print(f"error: {step}: {night.failed[step]}", file=sys.stderr)


def stop(plan: Plan, night: Night) -> NoReturn:
    """UserError, and a page that says why, where a step failed that all samplers depend on."""
    with contextlib.suppress(UserError):  # a full disk: it was said on the terminal and in the log
        night.write(plan.out)
        write_stopped_page(plan.out, night)
    raise UserError(
        f"{', '.join(night.failed)} failed, as said above: no sampler was run; the same command goes on from there"
    )


def refuse_replacing(plan: Plan, night: Night) -> None:
    """UserError where a finished run of other settings has the folder of a sampler."""
    for name, settings in plan.all_settings().items():
        folder = night.folder(plan.out, name)
        before = finished(folder)
        if before is None:
            continue
        asked = before["request"] | {
            "settings": asdict(settings),
            "sequences": plan.sequences,
            "images": min(plan.decoded, plan.sequences),
            "strips": plan.strips,
        }
        if changed := differences(before["request"], asked):
            raise UserError(
                f"{folder} holds a finished run of other settings ({changed}): give the sampler another name, choose "
                "another --out, or delete that folder"
            )


def new_night(plan: Plan, command: str) -> Night:
    """A night that begins, with the durations that an earlier one in the same folder measured."""
    night = Night(
        command=command,
        sequences=plan.sequences,
        decoded=plan.decoded,
        seed=plan.seed,
        samplers={name: asdict(settings) for name, settings in plan.all_settings().items()},
        plan=plan.to_json(),
    )
    if (plan.out / FILE).exists():
        try:
            night.seconds = Night.read(plan.out).seconds
        except (UserError, TypeError):  # of another version
            print(f"{plan.out / FILE} is of another version: its durations are not known")
    return night


def generate_all(plan: Plan, night: Night, folders: list[TokenFolder], index: Index) -> None:
    """Every sampler's images, and the page after each; what fails is named, the others are finished all the same."""
    started = time.monotonic()
    try:
        codec = open_codec(index)
        control = read_control(index)
    except UserError as error:
        fail(night, "opening the index", error)
        stop(plan, night)

    # 1) All samplers are checked before the first one is run.
    requests = {
        name: Request(settings, plan.sequences, plan.decoded, plan.seed, strips=plan.strips)
        for name, settings in plan.all_settings().items()
    }
    for name, request in requests.items():
        try:
            request.completed(index, codec).check(index)
        except UserError as error:
            fail(night, name, error)

    # 2) What all of them are compared with.
    sources = Sources(plan.out, night, index, control, Originals(folders))
    try:
        held_out_figures(index, control, plan.out / "bits.json")
    except (UserError, OSError) as error:
        fail(night, "held-out bits", error)
    real = Request(Settings(), plan.sequences, plan.decoded, plan.seed)
    folder = night.folder(plan.out, HELD_OUT)
    attempt(night, HELD_OUT, folder, partial(reconstruct_held_out, index, codec, control, real, folder))

    # 3) The samplers.
    for number, (name, request) in enumerate(requests.items(), 1):
        if name in night.failed:
            continue
        if name not in plan.samplers and not fits(plan, night, name, time.monotonic() - started):
            night.skipped.append(name)
            continue
        left = time_left(plan, night, list(requests)[number - 1 :])
        print(f"sampler {number} of {len(requests)}, {name}: {request.settings.describe()}{left}")
        folder = night.folder(plan.out, name)
        attempt(night, name, folder, partial(generate, index, codec, control, request, folder))
        publish(sources)
    if night.skipped:
        print(f"{len(night.skipped)} samplers of the sweep do not fit into {plan.hours:g} hours and are left out")

    night.failed.pop(PAGE, None)  # tried again
    night.complete = not night.failed
    publish(sources)


def publish(sources: Sources) -> None:
    """Write night.json and the page of what is finished; where that fails, say so, and the night goes on."""
    try:
        sources.night.write(sources.out)
        write_page(sources)
    except (UserError, OSError) as error:
        fail(sources.night, PAGE, error)


def attempt(night: Night, name: str, folder: Path, make: Callable[[], Generated]) -> None:
    """Make one folder of images; where that fails, name it and say why, and free the space that its half took."""
    started = time.monotonic()
    try:
        result = make()
    except Exception as error:
        if not isinstance(error, UserError | OSError):  # a fault of the program: say where
            traceback.print_exc()
        fail(night, name, error)
        if (folder / ".lock").exists() and not (folder / "report.json").exists():
            shutil.rmtree(folder, ignore_errors=True)  # ours, and of no use: on a full disk the page needs the room
        return
    seconds = time.monotonic() - started
    if result.new:
        night.seconds[name] = round(seconds, 1)
    print(f"{result.path}: {f'generated in {seconds:.0f} s' if result.new else 'finished before'}")


def expected_seconds(night: Night, name: str) -> float:
    """How long a sampler will take: as it did before, as those of its method did, or as all did; 0 where none ran."""
    if name in night.seconds:
        return night.seconds[name]
    known = {other: seconds for other, seconds in night.seconds.items() if other in night.samplers}
    method = night.samplers[name]["method"]
    alike = [seconds for other, seconds in known.items() if night.samplers[other]["method"] == method]
    chosen = alike or list(known.values())
    return sum(chosen) / len(chosen) if chosen else 0.0


def fits(plan: Plan, night: Night, name: str, elapsed: float) -> bool:
    """Whether a sampler of the sweep is finished, or can be before the hours are over; `elapsed`: seconds."""
    return night.is_finished(plan.out, name) or elapsed + expected_seconds(night, name) <= 3600 * plan.hours


def time_left(plan: Plan, night: Night, names: list[str]) -> str:
    """How long these samplers will take, in words; nothing where that is not known or under a minute."""
    todo = [name for name in names if not night.is_finished(plan.out, name)]
    minutes = sum(expected_seconds(night, name) for name in todo) / 60
    if plan.hours:
        minutes = min(minutes, 60 * plan.hours)
    return f" (about {minutes:.0f} min left)" if minutes >= 1 else ""
