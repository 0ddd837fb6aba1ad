"""A night: tokenize, index, generate with every sampler; the page is written anew after each of them."""

import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from functools import partial

from imagegram.cli import UserError
from imagegram.generating import Generated, Request, generate, open_codec, reconstruct_held_out
from imagegram.index.folder import Index
from imagegram.measure.control import read_control
from imagegram.measure.prediction import held_out_figures
from imagegram.overnight.plan import Plan
from imagegram.report.night import FILE, HELD_OUT, Night
from imagegram.report.page import Sources, write_page
from imagegram.report.thumbnails import Originals
from imagegram.sampling.settings import Settings
from imagegram.tokenizing import Options, tokenize_dataset
from imagegram.tokens import TokenFolder

WORKERS = -1  # loader processes; -1: one for each core


def tokenize_all(plan: Plan) -> list[TokenFolder]:
    """The tokens of every data set."""
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
        folders.append(tokenize_dataset(data.name, plan.token_folder(data), options))
    return folders


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
    codec = open_codec(index)
    control = read_control(index)

    # 1) All samplers are checked before the first one is run.
    requests = {
        name: Request(settings, plan.sequences, plan.decoded, plan.seed, strips=plan.strips)
        for name, settings in plan.all_settings().items()
    }
    for name, request in requests.items():
        try:
            request.completed(index, codec).check(index)
        except UserError as error:
            raise UserError(f"sampler {name}: {error}") from None

    # 2) What all of them are compared with.
    sources = Sources(plan.out, night, index, control, Originals(folders))
    held_out_figures(index, control, plan.out / "bits.json")
    real = Request(Settings(), plan.sequences, plan.decoded, plan.seed)
    make_real = partial(reconstruct_held_out, index, codec, control, real, night.folder(plan.out, HELD_OUT))
    attempt(night, HELD_OUT, make_real)

    # 3) The samplers.
    for number, (name, request) in enumerate(requests.items(), 1):
        if name not in plan.samplers and not fits(plan, night, name, time.monotonic() - started):
            night.skipped.append(name)
            continue
        left = time_left(plan, night, list(requests)[number - 1 :])
        print(f"sampler {number} of {len(requests)}, {name}: {request.settings.describe()}{left}")
        attempt(night, name, partial(generate, index, codec, control, request, night.folder(plan.out, name)))
        night.write(plan.out)
        write_page(sources)
    if night.skipped:
        print(f"{len(night.skipped)} samplers of the sweep do not fit into {plan.hours:g} hours and are left out")

    night.complete = not night.failed
    night.write(plan.out)
    write_page(sources)


def attempt(night: Night, name: str, make: Callable[[], Generated]) -> None:
    """Make one folder of images; where that fails, name it and say why."""
    started = time.monotonic()
    try:
        result = make()
    except Exception as error:
        if not isinstance(error, UserError | OSError):  # a fault of the program: say where
            traceback.print_exc()
        night.failed[name] = str(error) or type(error).__name__
        print(f"error: {name}: {night.failed[name]}", file=sys.stderr)
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
