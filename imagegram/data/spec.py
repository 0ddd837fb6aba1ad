"""Which data set is meant: on a command line, in a plan, in the manifest of its tokens."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any

from tyro.conf import arg

from imagegram.data.dataset import DatasetOptions, ImageDataset
from imagegram.data.opening import open_dataset


@dataclass(frozen=True)
class DatasetSpec(DatasetOptions):
    """One data set; the same one opens to the same images wherever it is named."""

    name: Annotated[str, arg(name="dataset")]
    """digits | emoji | shapes | a Hugging Face name | a folder of images, of .tar, parquet, IDX
    files, or saved by datasets | one .tar, .parquet, .npz or IDX file"""

    @classmethod
    def of_each(cls, names: Iterable[str], options: DatasetOptions) -> "tuple[DatasetSpec, ...]":
        """Several data sets with the same options."""
        given = {field.name: getattr(options, field.name) for field in fields(DatasetOptions)}
        return tuple(cls(name, **given) for name in names)

    @classmethod
    def from_json(cls, found: str | Mapping[str, Any]) -> "DatasetSpec":
        """What `to_json` wrote, or the name alone."""
        return cls(found) if isinstance(found, str) else cls(**found)

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, **asdict(self)}

    def open(self, image_size: int = 32) -> ImageDataset:
        """The data set itself, see `open_dataset`."""
        return open_dataset(self.name, self, image_size)
