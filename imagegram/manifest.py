"""What the tokens of a folder are: written first, and compared where a run goes on."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from imagegram.artifact import changes
from imagegram.cli import UserError
from imagegram.data.dataset import SAMPLE_SEED
from imagegram.data.spec import DatasetSpec


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a token folder was made from. Runs share one only where `changes` finds nothing."""

    dataset: DatasetSpec  # as it was asked for; the same data may lie elsewhere tomorrow
    split: str  # this and the columns: what its reader took
    fingerprint: str  # of the data set's content or files
    images: int
    """images planned, readable or not: a random sample of those available, or all of them"""
    codec: str = ""
    """"": tokens of elsewhere; revision, precision, size and preprocessing are not known"""
    revision: str = ""  # of the codec's weights
    precision: str = ""  # of tokenizing
    tokens_per_image: int
    vocab_size: int
    levels: tuple[int, ...]  # FSQ levels, () where the codec has none
    image_size: int = 0  # pixels
    preprocessing: str = ""
    held_out_share: float
    shard_size: int
    class_names: tuple[str, ...] = ()
    image_column: str = ""
    label_column: str = ""
    available: int = 0  # images of the data set; 0: the first `images` of an unknown number
    sample_seed: int = SAMPLE_SEED
    group: str = ""
    """what keeps images on one side of the split (groups-*.npy); "": each is on its own"""

    def to_json(self) -> dict[str, Any]:
        found = asdict(self) | {"dataset": self.dataset.to_json()}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in found.items()}

    @classmethod
    def from_json(cls, found: Mapping[str, Any], file: Path) -> "Manifest":
        """What `to_json` wrote; UserError naming `file` where another version of Imagegram did."""
        values: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in found.items()
        }
        try:
            return cls(**values | {"dataset": DatasetSpec.from_json(found["dataset"])})
        except (TypeError, KeyError) as error:
            raise UserError(
                f"{file} was written by another version of Imagegram ({error}): use that one, or "
                "tokenize again into another folder"
            ) from None

    def changes(self, now: "Manifest") -> dict[str, str]:
        """What differs, as artifact.py's `changes` says it; nothing where only the paths of the
        data set and the codec do: fingerprint and revision say what they are."""
        if replace(self, dataset=now.dataset, codec=now.codec) == now:
            return {}
        return changes(self.to_json(), now.to_json())
