"""Files of pictures as people have them, made for the tests."""

import io
import tarfile
from pathlib import Path
from typing import Any

from PIL import Image

from imagegram.data.scenes import scene


def encoded(shown: Image.Image, kind: str, **options: Any) -> bytes:
    """The bytes of a picture's file."""
    buffer = io.BytesIO()
    shown.save(buffer, kind, **options)
    return buffer.getvalue()


def image(i: int) -> Image.Image:
    """A small picture, another one for every `i`."""
    return Image.fromarray(scene(2, i, 8)[0])


def picture(i: int, kind: str = "PNG") -> bytes:
    """The bytes of a small picture, another one for every `i`."""
    return encoded(image(i), kind)


def put_pictures(folder: Path, *names: str) -> Path:
    """A folder of pictures, another one under every name."""
    for i, name in enumerate(names):
        put(folder / name, picture(i))
    return folder


def put(path: Path, content: bytes = b"") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def write_tar(path: Path, *members: tuple[str, Any]) -> Path:
    """A tar; a member's content as text is the target of a hard link."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type = tarfile.LNKTYPE
                info.linkname = content
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return path
