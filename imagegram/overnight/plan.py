"""What a night is to do: its data sets, samplers and sizes, checked before anything is touched."""

import random
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagegram.cli import UserError
from imagegram.files import others
from imagegram.samplers.settings import Settings

if TYPE_CHECKING:
    from imagegram.report.record import Night


@dataclass(frozen=True)
class Data:
    """A data set, as tokenize_fast.py takes it."""

    name: str
    split: str = ""  # of a data set that has splits; "": train
    images: int = 0  # the first so many; 0: all (of shapes: 20,000)
    image_column: str = ""  # "": found by type and name
    label_column: str = ""


@dataclass(frozen=True)
class Plan:
    """A night over one index."""

    out: Path
    data: tuple[Data, ...]
    codec: str
    samplers: dict[str, Settings]  # all of them are run
    sweep: dict[str, Settings]  # as many as `hours` allow
    sequences: int  # sampled and measured for each sampler
    decoded: int  # of these
    strips: int  # of these, decoded from their first tokens as well
    seed: int
    hours: float = 0.0  # from the start; 0: no sweep

    def all_settings(self) -> dict[str, Settings]:
        """The samplers, then the sweep in random order, so that any part of it covers all of it evenly."""
        swept = [name for name in self.sweep if name not in self.samplers] if self.hours else []
        random.Random(self.seed).shuffle(swept)
        return self.samplers | {name: self.sweep[name] for name in swept}

    def token_folder(self, data: Data) -> Path:
        """Where the tokens of a data set are."""
        if len(self.data) == 1:
            return self.out / "tokens"
        return self.out / f"tokens-{self.data.index(data)}-{Path(data.name).name}"

    def to_json(self) -> dict[str, Any]:
        """What decides the results."""
        settings = {name: asdict(settings) for name, settings in self.all_settings().items()}
        return {
            "data": [asdict(data) for data in self.data],
            "codec": self.codec,
            "samplers": settings,
            "sequences": self.sequences,
            "decoded": self.decoded,
            "strips": self.strips,
            "seed": self.seed,
            "hours": self.hours,
        }

    def check(self) -> None:
        """UserError where something cannot be right; of what needs neither the data nor the codec."""
        if not self.data:
            raise UserError("no data set: name one in DATASETS or with --dataset")
        if len(set(self.data)) < len(self.data):
            raise UserError("a data set stands twice in DATASETS: its images would all be copies of each other")
        if not self.samplers:
            raise UserError("no sampler: SAMPLERS is empty")
        self._check_place()
        if self.sequences < 1 or self.decoded < 0 or self.seed < 0 or self.hours < 0:
            raise UserError("--sequences must be at least 1, --decoded, --seed and --hours must not be negative")
        for name, settings in self.all_settings().items():
            if not name.replace("-", "").replace(".", "").replace("_", "").isalnum():
                raise UserError(f"the sampler {name!r} names a folder: use letters, digits, '-', '_' and '.'")
            try:
                settings.check()
            except UserError as error:
                raise UserError(f"sampler {name}: {error}") from None

    def _check_place(self) -> None:
        """UserError where the night would write over files that are not of a night. Tokens may lie there already."""
        if self.out.exists() and not self.out.is_dir():
            raise UserError(f"{self.out} is a file: choose a folder with --out")
        if self.out.is_symlink() and not self.out.exists():
            raise UserError(f"{self.out} is a link whose target is gone: mend it, or choose another folder with --out")
        for data in self.data:
            if Path(data.name).is_dir() and self.out.is_dir() and self.out.samefile(data.name):
                raise UserError(
                    f"--out {self.out} is the folder of the data set, and results would lie among its images: choose "
                    f"another one, {self.out / 'results'} for example"
                )
        if (self.out / ".lock-night").exists():
            return
        for name in ("night.json", "night.log", "report.html", "bits.json", "generated"):
            if (self.out / name).exists():
                raise UserError(f"{self.out / name} was not made by a night here: choose another folder with --out")
        found = others(self.out, "tokens.*|index.*")
        if found:
            raise UserError(f"{self.out} holds files that are not of a night, e.g. {found[0]!r}: choose another --out")
        index = self.out / "index"
        if index.is_dir() and (found := others(index)) and "index.json" not in found:
            raise UserError(f"{index} holds files that are not an index, e.g. {found[0]!r}: choose another --out")


def finished_before(plan: Plan) -> "Night | None":
    """The finished night of the same plan in its folder; None where there is none, or some of its files are gone.

    Reads neither the pictures of the data sets nor the codec. A folder of images is looked at again: it may have grown.
    """
    from imagegram.data.opening import open_dataset
    from imagegram.files import read_json
    from imagegram.index.folder import Index
    from imagegram.report.record import FILE, HELD_OUT, Night
    from imagegram.tokens import TokenFolder

    if not (plan.out / FILE).exists() or not (plan.out / "report.html").exists():
        return None
    try:
        night = Night.read(plan.out)
        if not night.complete or night.plan != plan.to_json():
            return None
        index = Index.open(plan.out / "index")
        for data in plan.data:
            folder = TokenFolder.open(plan.token_folder(data))
            if folder.pending():
                return None
            if Path(data.name).exists():
                columns = data.image_column, data.label_column
                source = open_dataset(data.name, data.split, data.images, folder.manifest.image_size, *columns)
                if source.fingerprint != folder.manifest.fingerprint:
                    return None
    except (UserError, TypeError):
        return None
    made = [name for name in night.samplers if name not in night.skipped]
    for name in [*made, HELD_OUT]:
        report = night.folder(plan.out, name) / "report.json"
        if not report.exists() or read_json(report)["request"]["index"] != index.info["hash"]:
            return None
    return night
