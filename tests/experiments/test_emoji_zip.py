"""The pictures of `--dataset emoji` are made to the same bytes each time, without skin tones."""

import io
import json
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from experiments.emoji_zip import COLOURS, HANDS, NAMES, SIDE, Config, main


def test_a_zip_is_made_of_packages(tmp_path: Path) -> None:
    known = [
        {"unified": "1F600", "category": "Smileys & Emotion", "sort_order": 2},
        {"unified": "0023-FE0F-20E3", "category": "Symbols", "sort_order": 1},
        {"unified": "1F44B", "category": "People & Body", "sort_order": 3},
    ]
    noise = np.random.default_rng(0).integers(0, 256, (72, 72, 4), np.uint8)
    noise[:36] = 0  # transparent
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    # a skin tone, and one without a category
    files = ("1f600", "0023-fe0f-20e3", "1f44b-1f3fb", "1f9ff")
    for package, folder in HANDS.values():
        members = {f"{folder}{name}.png": buffer.getvalue() for name in files}
        with tarfile.open(tmp_path / package, "w:gz") as tar:
            for name, content in (members | {NAMES: json.dumps(known).encode()}).items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    for out in ("a.zip", "b.zip"):
        main(Config(tmp_path, tmp_path / out))
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        names = archive.namelist()
        picture = Image.open(io.BytesIO(archive.read(names[0])))
        pixels = np.asarray(picture.convert("RGB"))
    places, hands = ("Symbols/23-20e3", "Smileys and Emotion/1f600"), ("fluent", "noto", "twemoji")
    assert names == [f"{place}-{hand}.webp" for place in places for hand in hands]
    assert pixels.shape == (SIDE, SIDE, 3)
    assert (pixels[:20] == 255).all()
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) <= COLOURS
