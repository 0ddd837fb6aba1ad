"""Data sets and preprocessing: whatever `--dataset` names becomes RGB images of the codec's size.

A source is a map-style data set: `source[i]` gives the picture and the label of ordinal `i`, or raises.
"""

import hashlib
import io
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from imagegram.cli import UserError
from imagegram.data import shapes

EXTENSIONS = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"}
MANY_SHAPES = 20_000  # shapes are unlimited: so many when no number is asked for


@dataclass(frozen=True)
class Source:
    """A data set: `read(i)` -> (picture, label or -1); `fingerprint` changes when its content does."""

    name: str
    split: str
    fingerprint: str
    size: int
    read: Callable[[int], tuple[Image.Image, int]]
    class_names: tuple[str, ...] = ()
    image_column: str = ""
    label_column: str = ""
    name_of: Callable[[int], str] = str  # where picture `i` came from: a file, tar:member, a row
    flaw: str = ""  # what is wrong with the data set as a whole, e.g. a tar that ends early

    def __len__(self) -> int:
        return self.size


def open_dataset(
    name: str,
    split: str = "train",
    images: int = 0,
    image_size: int = 32,
    image_column: str = "",
    label_column: str = "",
) -> Source:
    """Open what `--dataset` names; UserError with the remedy where that fails.

    `images` takes the first so many (0: all). `image_size` is the resolution that procedural shapes are drawn at.
    The columns of a Hugging Face data set are found by their types unless they are named.
    """
    if name == "digits":
        source = _digits()
    elif name == "shapes":
        source = _shapes(images or MANY_SHAPES, image_size)
    elif (path := Path(name)).exists():
        if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
            source = _hugging_face(name, split, image_column, label_column)
        elif path.suffix == ".tar" or any(path.glob("*.tar")):
            source = _tars(name, [path] if path.is_file() else sorted(path.glob("*.tar")))
        elif path.is_dir():
            source = _folder(path)
        else:
            raise UserError(f"{name} is neither a folder nor a .tar file")
    elif name.startswith((".", "/", "~")) or name.count("/") > 1 or name.endswith(".tar"):
        raise UserError(f"no data set at {name}: there is no such file or folder")
    else:
        source = _hugging_face(name, split, image_column, label_column)
    if images > len(source):
        raise UserError(f"{name} has {len(source)} images, {images} were asked for")
    fields = {**vars(source), "size": images or len(source)}
    return Source(**fields)


def _digest(*parts: object) -> str:
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()[:16]


def _digits() -> Source:
    from sklearn.datasets import load_digits

    data = load_digits()
    values = (data.images * (255 / 16)).astype(np.uint8)
    labels = data.target.tolist()
    return Source(
        name="digits",
        split="all",
        fingerprint=hashlib.sha256(values.tobytes()).hexdigest()[:16],
        size=len(values),
        read=lambda i: (Image.fromarray(values[i]), labels[i]),
        class_names=tuple("0123456789"),
    )


def _shapes(images: int, image_size: int) -> Source:
    def read(i: int) -> tuple[Image.Image, int]:
        pixels, label = shapes.scene(0, i, image_size)
        return Image.fromarray(pixels), label

    drawn = hashlib.sha256(b"".join(shapes.scene(0, i)[0].tobytes() for i in range(16))).hexdigest()[:16]
    return Source("shapes", "seed 0", drawn, images, read, class_names=shapes.KINDS)


def _open(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def _folder(path: Path) -> Source:
    files = sorted(f for f in path.rglob("*") if f.suffix.lower() in EXTENSIONS and f.is_file())
    if not files:
        raise UserError(f"{path} holds no images ({', '.join(sorted(EXTENSIONS))}), no .tar and no saved data set")
    parts = [f.relative_to(path).parts for f in files]
    classes = sorted({p[0] for p in parts if len(p) > 1})
    labels = [classes.index(p[0]) if len(p) > 1 else -1 for p in parts]
    return Source(
        name=str(path),
        split="all",
        fingerprint=_digest(*(f"{f.relative_to(path)} {f.stat().st_size}" for f in files)),
        size=len(files),
        read=lambda i: (_open(files[i].read_bytes()), labels[i]),
        class_names=tuple(classes),
    )


def _tars(name: str, paths: Sequence[Path]) -> Source:
    """WebDataset tars: one sample a key, its picture in KEY.jpg (or .png, ...), its label in KEY.cls."""
    pictures: list[tuple[Path, int, int]] = []  # file, offset, bytes
    keys: list[tuple[Path, str]] = []
    labels: dict[tuple[Path, str], int] = {}
    flaws = []
    for path in paths:
        length = path.stat().st_size
        try:
            with tarfile.open(path, "r:") as tar:
                for member in tar:
                    if member.offset_data + member.size > length:
                        raise tarfile.ReadError("unexpected end of data")
                    key, dot, suffix = member.name.partition(".")
                    if f".{suffix}".lower() in EXTENSIONS:
                        pictures.append((path, member.offset_data, member.size))
                        keys.append((path, key))
                    elif dot and suffix == "cls" and (file := tar.extractfile(member)):
                        labels[path, key] = int(file.read())
        except (tarfile.ReadError, EOFError) as error:
            flaws.append(f"{path.name}: {error}; its complete samples are kept")
    if not pictures:
        raise UserError(f"{name} holds no images{': ' if flaws else ''}{'; '.join(flaws)}")

    def read(i: int) -> tuple[Image.Image, int]:
        path, offset, size = pictures[i]
        with path.open("rb") as f:
            f.seek(offset)
            return _open(f.read(size)), labels.get(keys[i], -1)

    return Source(
        name=name,
        split="all",
        fingerprint=_digest(*(f"{p.name} {offset} {size}" for p, offset, size in pictures)),
        size=len(pictures),
        read=read,
        class_names=tuple(str(i) for i in range(max(labels.values(), default=-1) + 1)),
        flaw="; ".join(flaws),
    )


def _hugging_face(name: str, split: str, image_column: str, label_column: str) -> Source:
    import datasets
    import huggingface_hub

    huggingface_hub.utils.logging.set_verbosity_error()  # its retries would bury the one line that helps
    try:
        if Path(name).exists():
            data: Any = datasets.load_from_disk(name)
            if isinstance(data, datasets.DatasetDict):
                if split not in data:
                    raise UserError(f"{name} has no split {split!r}; it has {', '.join(data)}")
                data = data[split]
        else:
            data = datasets.load_dataset(name, split=split)
    except UserError:
        raise
    except IndexError:  # how datasets says that a saved one has no rows
        raise UserError(f"the data set {name!r} has no images") from None
    except Exception as error:  # the hub, its cache and its builders fail in ways of their own
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"cannot load the data set {name!r}, split {split!r} ({reason}): check the name and the connection, "
            "or give digits, shapes, a folder of images, of .tar files or saved by datasets"
        ) from None

    def column(given: str, kind: type, what: str) -> str:
        if given and given not in data.features:
            raise UserError(f"{name} has no column {given!r}; it has {', '.join(data.features)}")
        return given or next((c for c, feature in data.features.items() if isinstance(feature, kind)), "")

    image_column = column(image_column, datasets.Image, "image")
    label_column = column(label_column, datasets.ClassLabel, "label")
    if not image_column:
        raise UserError(
            f"{name} has no image column (columns: {', '.join(data.features)}): name it with --image-column"
        )
    fingerprint, label_feature = data._fingerprint, data.features.get(label_column)
    data = data.cast_column(image_column, datasets.Image(decode=False))  # a bad picture must not stop the others

    def read(i: int) -> tuple[Image.Image, int]:
        row = data[i]
        cell = row[image_column]
        picture = _open(cell["bytes"] if cell["bytes"] is not None else Path(cell["path"]).read_bytes())
        return picture, int(row[label_column]) if label_column else -1

    return Source(
        name=name,
        split=split,
        fingerprint=fingerprint,
        size=len(data),
        read=read,
        class_names=tuple(getattr(label_feature, "names", ())),
        image_column=image_column,
        label_column=label_column,
    )
