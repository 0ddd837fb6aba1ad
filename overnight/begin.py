"""The frame of a night: whether it is finished, its folder with lock and log, what came of it."""

import contextlib
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from imagegram.artifact import Artifact, changes
from imagegram.cli import UserError, summary
from imagegram.codec import miniatures
from imagegram.files import read_json
from imagegram.index.folder import Index
from imagegram.metrics.intervals import from_json
from imagegram.metrics.registry import IN_SHORT
from imagegram.report.record import FILE, HELD_OUT, Night
from imagegram.tokens import TokenFolder
from overnight.log import logged
from overnight.plan import Plan, needs_of


@contextlib.contextmanager
def begin(plan: Plan) -> Iterator[Night]:
    """The night of a plan; where it is `complete`, nothing is left to do.

    UserError where the machine is too small or the folder another's; in the end, for failures.
    """
    started = time.monotonic()
    night = finished_before(plan)
    if night:
        print(f"{plan.out} is finished, nothing to do")
        yield night
        say_end(plan, night, started)
        return

    print(f"{plan.out}: looking at the data sets and the machine", flush=True)
    needs_of(plan).check()
    artifact = Artifact(plan.out, "run")
    artifact.claim()
    with artifact.lock(), logged(plan.out / "night.log"):
        command = shlex.join(["overnight_run.py", *sys.argv[1:]])
        print(command)
        remove_leftovers(plan.out)
        night = new_night(plan, command)
        refuse_replacing(plan, night)
        yield night
        say_end(plan, night, started)
        if night.failed:
            raise UserError(
                f"{', '.join(night.failed)} failed, as said above; {len(night.finished(plan.out))} "
                f"of {len(night.samplers)} samplers finished: {plan.out / 'report.html'}; the same "
                "command tries again"
            )


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of `atomic` that killed processes left, in all folders below."""
    for file in folder.rglob(".tmp-*"):
        writer = file.name.split("-")[1]
        if file.is_file() and writer.isdigit() and not Path(f"/proc/{writer}").exists():
            file.unlink(missing_ok=True)


def say_end(plan: Plan, night: Night, started: float) -> None:
    """Print the figures of every sampler, and where everything is."""
    print(f"{'':<24}" + "".join(f"  {metric.title:>24}" for metric in IN_SHORT))
    for name in night.finished(plan.out):
        report = read_json(night.folder(plan.out, name) / "report.json")
        figures = from_json(report["generated"])
        print(f"{name:<24}" + "".join(f"  {metric.text(figures):>24}" for metric in IN_SHORT))
    seconds = round(time.monotonic() - started, 1)
    summary(page=plan.out / "report.html", log=plan.out / "night.log", seconds=seconds)


def finished_before(plan: Plan) -> Night | None:
    """The finished night of the same plan; None where there is none, or some of its files are gone.

    Reads no picture of the data sets, and of the codec no more than the hash of its weights. A
    folder of images is looked at again: it may have grown.
    """
    if not (plan.out / FILE).exists() or not (plan.out / "report.html").exists():
        return None
    try:
        night = Night.read(plan.out)
        if not night.complete or night.skipped or night.plan != plan.to_json():
            return None
        index = Index.open(plan.out / "index")
        miniature = miniatures.find(plan.codec)
        if miniature and miniatures.revision(miniature) != index.revision:
            return None  # trained anew
        for data in plan.data:
            folder = TokenFolder.open(plan.token_folder(data))
            if folder.pending():
                return None
            seen = data.open(folder.manifest.image_size) if Path(data.name).exists() else None
            if seen and seen.fingerprint != folder.manifest.fingerprint:
                return None
    except (UserError, TypeError):
        return None
    for name in [*night.samplers, HELD_OUT]:
        report = night.folder(plan.out, name) / "report.json"
        if not report.exists() or read_json(report)["request"]["index"] != index.identity:
            return None
    return night


def refuse_replacing(plan: Plan, night: Night) -> None:
    """UserError where a finished run of other settings has the folder of a sampler."""
    # Where codec, index, held-out images or code differ, the images are made anew.
    shown = min(plan.decoded, plan.sequences)
    numbers = {"sequences": plan.sequences, "decoded": shown, "prefixes": plan.prefixes}
    for name, draw in plan.draws().items():
        folder = night.folder(plan.out, name)
        before = Artifact(folder, "images").record()
        if before is None:
            continue
        asked = draw.to_json() | numbers
        asked.pop("version", None)
        if changed := changes({key: before["request"].get(key) for key in asked}, asked):
            raise UserError(
                f"{folder} holds a finished run of other settings ({', '.join(changed.values())}): "
                "give the sampler another name, choose another --out, or delete that folder"
            )


def new_night(plan: Plan, command: str) -> Night:
    """A night that begins, with the durations that an earlier one in the same folder measured."""
    decides = plan.to_json()
    numbers = plan.sequences, plan.decoded, plan.seed
    night = Night(command, *numbers, decides["samplers"], plan=decides)
    if (plan.out / FILE).exists():
        try:
            before = Night.read(plan.out)
            night.seconds = before.seconds
            if before.machine.partition("; before that ")[0] == night.machine:
                night.machine = before.machine
            else:
                night.machine += f"; before that {before.machine}"
        except (UserError, TypeError):  # of another version
            print(f"{plan.out / FILE} is of another version: its durations are not known")
    return night
