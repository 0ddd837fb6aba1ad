"""Groups stay on one side of the held-out split, whatever says them, and what is nearly a copy
across it is named."""

import json
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imagegram import token_arrays
from imagegram.cli import UserError
from imagegram.data.duplicates import Pair, across, near_pairs, perceptual_hashes
from imagegram.data.preprocess import preprocess
from imagegram.data.scenes import scene
from imagegram.data.shipped import EMOJI
from imagegram.data.spec import DatasetSpec
from imagegram.index.build import build_index
from imagegram.token_arrays import tokens_from
from tests.support.datasets import image, picture, put, put_pictures, write_tar
from tests.support.opened import described, open_dataset, refused
from tests.support.tables import IMAGE, NUMBER, parquet, save
from tests.support.tokenize import tokenize

NAMES = [f"{i // 3:02d}_view{i % 3}" for i in range(60)]  # 20 groups of three


def check_groups(place: str | Path, group: str, expected: list[str]) -> None:
    """Exactly the images with the same name of their group have the same key."""
    source = open_dataset(place, group=group)
    assert source.groups is not None
    keys = source.groups.tolist()
    assert [keys.index(key) for key in keys] == [expected.index(name) for name in expected]
    assert f"{len(set(expected))} groups by {group}" in described(place, group=group)


def folder(place: Path) -> Path:
    return put_pictures(place, *(f"{name}.png" for name in NAMES))


def test_groups_of_every_kind_of_source(tmp_path: Path) -> None:
    things = [name[:2] for name in NAMES]
    images = [image(i) for i in range(len(NAMES))]
    columns = {"image": images, "thing": [int(thing) for thing in things]}
    features = {"image": IMAGE, "thing": NUMBER}
    parquet(tmp_path / "p" / "0.parquet", columns, features)
    save(tmp_path / "s", columns, features)
    members = [(f"{name}.png", picture(i)) for i, name in enumerate(NAMES)]
    members += [(f"{name}.json", json.dumps({"thing": name[:2]}).encode()) for name in NAMES]
    write_tar(tmp_path / "x.tar", *members)
    np.savez(tmp_path / "x.npz", images=np.stack([np.asarray(one) for one in images]), thing=things)
    folder(tmp_path / "f")
    rows = ["file_name,thing", *(f"{name}.png,{name[:2]}" for name in NAMES)]
    (folder(tmp_path / "t") / "metadata.csv").write_text("\n".join(rows))
    for name, group in (
        ("p", "thing"),
        ("s", "thing"),
        ("x.tar", "thing"),
        ("x.tar", "^([0-9]+)_"),
        ("x.npz", "thing"),
        ("f", "([0-9]+)_view"),
        ("t", "thing"),
    ):
        place = tmp_path / name
        check_groups(place, group, things)
        assert open_dataset(place).groups is None
        assert open_dataset(place).fingerprint != open_dataset(place, group=group).fingerprint
        refused(place, r"has no (column|array) 'maker'.*thing|--group takes", group="maker")


def test_images_without_a_group_are_their_own(tmp_path: Path) -> None:
    place = folder(tmp_path / "d")
    rows = [f"{name}.png,{name[:2] if i > 2 else ''}" for i, name in enumerate(NAMES)]
    (place / "metadata.csv").write_text("\n".join(["file_name,thing", *rows]))
    check_groups(place, "thing", ["a", "b", "c", *(name[:2] for name in NAMES[3:])])
    assert "3 images are in none, each on its own" in described(place, group="thing")
    put(place / "metadata.jsonl", b'{"file_name": "03_view0.png", "thing": "x"}\n')
    refused(place, "1 pictures have two groups", group="thing")
    refused(place, "no regular expression", group="([0-9]+")
    refused(place, "finds nothing in the names", group="(owl)")
    refused("digits", "--group x does not apply", group="x")


def test_a_group_is_on_one_side_and_its_shards_do_not_matter(tmp_path: Path) -> None:
    place = str(folder(tmp_path / "d"))
    whole = tokenize(place, tmp_path / "a", group="^(.+)_", held_out_share=0.3)
    corpus = whole.load()
    sides = corpus.held_out.reshape(20, 3)
    assert 2 <= sides[:, 0].sum() <= 12
    assert (sides == sides[:, :1]).all()
    parts = tokenize(
        place, tmp_path / "b", group="^(.+)_", held_out_share=0.3, shard_size=7, images=50
    )
    assert np.array_equal(parts.load().held_out, corpus.held_out[parts.load().ordinals])
    index = build_index([whole.path], tmp_path / "input", tmp_path / "index")
    assert index.images[:, 1].tolist() == np.flatnonzero(~corpus.held_out).tolist()
    assert json.loads((whole.path / "manifest.json").read_text())["group"] == "^(.+)_"
    with pytest.raises(UserError, match="holds other tokens"):
        tokenize(place, tmp_path / "a", held_out_share=0.3)
    (whole.path / "groups-00000.npy").unlink()
    assert whole.pending() == [0]


def test_tokens_of_other_code_are_held_out_by_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_arrays, "SHARD_SIZE", 7)
    ids = np.random.default_rng(0).integers(0, 64_000, (60, 4))
    things = np.arange(60) % 20
    folder = tokens_from(ids, tmp_path / "a", groups=things, held_out_share=0.3)
    out = folder.load().held_out
    assert 0 < out.sum() < 60
    assert not set(things[out]) & set(things[~out])
    by_name = tokens_from(ids, tmp_path / "b", groups=things.astype(str), held_out_share=0.3)
    assert by_name.contents() == folder.contents()
    alone = tokens_from(ids, tmp_path / "c", held_out_share=0.3).load().held_out
    assert alone.tolist() != out.tolist()
    with pytest.raises(UserError, match="holds other tokens"):
        tokens_from(ids, tmp_path / "a", groups=things // 2, held_out_share=0.3)
    with pytest.raises(UserError, match=r"60 images have 60 groups, not \[59\]"):
        tokens_from(ids, tmp_path / "d", groups=things[1:])


def test_no_code_point_of_emoji_is_on_both_sides() -> None:
    source = DatasetSpec("emoji").open()
    out = source.held_out(np.arange(source.size), 0.1)
    names = map(source.name_of, range(source.size))
    codes = np.array([re.sub(r".*/|-[a-z]+\.webp$", "", name) for name in names])
    assert not set(codes[out]) & set(codes[~out])
    assert (source.size, len(set(codes)), len(source.class_names)) == (5664, 1906, 9)
    assert 0.08 < out.mean() < 0.12
    image, label = source.read(0)
    assert (image.size, source.class_names[label]) == ((64, 64), "Smileys and Emotion")


def test_the_emoji_are_small_and_their_licences_lie_beside_them() -> None:
    assert EMOJI.stat().st_size < 8e6
    licences = (EMOJI.parent / "LICENCES.md").read_text()
    with zipfile.ZipFile(EMOJI) as archive:
        hands = {name.rpartition("-")[2].removesuffix(".webp") for name in archive.namelist()}
        assert not any(f"1f3f{tone}" in name for name in archive.namelist() for tone in "bcdef")
    assert hands == {"noto", "twemoji", "fluent"}
    assert all(f"`{hand}`" in licences for hand in hands)


def test_near_pairs_are_those_of_brute_force() -> None:
    rng = np.random.default_rng(0)
    left = rng.integers(0, 2**64, 300, np.uint64)
    right = np.concatenate([left[:200], rng.integers(0, 2**64, 100, np.uint64)])
    for row in range(200):
        for bit in rng.choice(64, row % 8, replace=False).tolist():
            right[row] ^= np.uint64(1 << bit)
    for most in (0, 2, 4):
        distances = np.bitwise_count(left[:, None] ^ right[None])
        assert np.array_equal(near_pairs(left, right, most), np.argwhere(distances <= most))
    many = rng.integers(0, 3, 2000, np.uint64)  # nearly all pairs are equal
    assert len(near_pairs(many, many[:50], 0)) == (many[:, None] == many[None, :50]).sum()


def test_what_is_near_and_what_is_alike() -> None:
    bits = np.array([0, 0b1111, 0b11111, 1 << 40], np.uint64)
    out = np.arange(4) == 0  # the first, which differs in 4, 5 and 1 bits

    def found(*levels: int) -> list[Pair]:
        return across(bits, out, lambda row: np.full((3, 8, 8), levels[row], np.uint8))

    assert found(100, 100, 100, 116) == [Pair(0, 1, 0.0), Pair(0, 3, 16.0)]
    assert found(100, 100, 100, 117) == [Pair(0, 1, 0.0)]


def test_a_hash_outlives_scaling_and_tells_pictures_apart() -> None:
    def hashes(images: list[Image.Image]) -> np.ndarray:
        return perceptual_hashes(np.stack([preprocess(one, 64).numpy() for one in images]))

    images = [Image.fromarray(scene(5, i, 64)[0]) for i in range(40)]
    small = [one.resize((48, 48)) for one in images]
    distances = np.bitwise_count(hashes(images)[:, None] ^ hashes(small)[None])
    assert (np.diag(distances) <= 4).mean() > 0.95
    assert np.median(distances[~np.eye(40, dtype=bool)]) > 15


def test_a_planted_near_duplicate_across_the_split_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = put_pictures(tmp_path / "d", *(f"{i:02d}.png" for i in range(60)))
    out = tokenize(str(place), tmp_path / "t").load().held_out
    assert "near-duplicates: 0 of" in capsys.readouterr().out
    held_out, training = np.flatnonzero(out)[1], np.flatnonzero(~out)[3]
    large = image(int(training)).resize((32, 32), Image.Resampling.BILINEAR)
    large.save(place / f"{held_out:02d}.png", "JPEG", quality=90)
    tokenize(str(place), tmp_path / "t2")
    line = f"1 of {out.sum()} held-out images are nearly a training image"
    example = f"e.g. {held_out:02d}.png of {training:02d}"
    assert f"{line}, {example}" in capsys.readouterr().out
    found = json.loads((tmp_path / "t2" / "duplicates.json").read_text())
    assert [(pair["held_out"], pair["training"]) for pair in found["pairs"]] == [
        (f"{held_out:02d}.png", f"{training:02d}.png")
    ]
