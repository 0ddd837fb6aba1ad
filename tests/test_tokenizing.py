"""Tokenizing: the same bytes however it is interrupted, split over processes or hindered by bad
images."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from imagegram import tokenizing, tokens
from imagegram.cli import UserError
from imagegram.data.loading import Item, load_batches
from imagegram.index.build import build_index
from tests.support.fake_codec import FakeCodec
from tests.support.tokenize import contents, tokenize

ROOT = Path(__file__).parent.parent


def test_nothing_but_bad_images_is_an_error(tmp_path: Path, codec: FakeCodec) -> None:
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(b"")
    with pytest.raises(
        UserError, match=r"none of the 3 images can be read: .*bad\.jsonl names them"
    ):
        tokenize(str(tmp_path), tmp_path / "tokens", workers=0)


def test_a_data_set_that_is_gone_for_a_while_costs_no_shard(
    tmp_path: Path, codec: FakeCodec, image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenize(str(image_folder), tmp_path / "whole", shard_size=4, batch_size=4, workers=0)
    encode = codec.encode

    def unmount(images: Any) -> Any:
        if image_folder.exists():
            image_folder.rename(tmp_path / "away")
        return encode(images)

    monkeypatch.setattr(codec, "encode", unmount)
    with pytest.raises(
        UserError, match=r"changed while it was tokenized: [1-4] of 4 images of shard [12] "
    ):
        tokenize(str(image_folder), tmp_path / "tokens", shard_size=4, batch_size=4, workers=0)
    finished = sorted((tmp_path / "tokens").glob("shard-*.json"))
    assert finished
    (tmp_path / "away").rename(image_folder)
    monkeypatch.setattr(codec, "encode", encode)
    tokenize(str(image_folder), tmp_path / "tokens", shard_size=4, batch_size=4, workers=0)
    assert contents(tmp_path / "tokens") == contents(tmp_path / "whole")


@pytest.mark.parametrize("returns", [False, True])
def test_a_shard_in_whose_midst_the_data_set_went_is_not_finished(
    tmp_path: Path,
    codec: FakeCodec,
    image_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    returns: bool,
) -> None:
    def unmount(*args: Any) -> Iterator[list[Item]]:
        for number, batch in enumerate(load_batches(*args)):
            if number == 5:
                image_folder.rename(tmp_path / "away")
            yield batch
            if number == 6 and returns:
                (tmp_path / "away").rename(image_folder)

    monkeypatch.setattr(tokenizing, "load_batches", unmount)
    gone = 1 if returns else 2
    with pytest.raises(
        UserError,
        match=rf"{gone} of 4 images of shard 1 .*class\d/\d\d.png .*cannot be read any more",
    ):
        tokenize(str(image_folder), tmp_path / "tokens", shard_size=4, batch_size=1, workers=0)
    assert [path.name for path in (tmp_path / "tokens").glob("shard-*.json")] == [
        "shard-00000.json"
    ]


def test_one_image_that_is_deleted_meanwhile_is_a_bad_image(
    tmp_path: Path, codec: FakeCodec, image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def delete(*args: Any) -> Iterator[list[Item]]:
        for number, batch in enumerate(load_batches(*args)):
            if number == 3:
                (image_folder / "class0" / "08.png").unlink()
            yield batch

    monkeypatch.setattr(tokenizing, "load_batches", delete)
    folder = tokenize(str(image_folder), tmp_path / "tokens", shard_size=4, batch_size=1, workers=0)
    assert next(iter(folder.bad().values())).startswith("ChangedError")


def test_too_many_bad_images_stop_the_run(
    tmp_path: Path, codec: FakeCodec, image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "MAX_BAD", 1)
    for i in (0, 2, 4):
        (image_folder / "class0" / f"{i:02d}.png").write_bytes(b"")
    for _ in range(2):  # what was refused is refused again, and is no input of an index
        with pytest.raises(UserError, match="3 of 4 images cannot be read"):
            tokenize(str(image_folder), tmp_path / "tokens", shard_size=4, workers=0)
    # A folder that was finished all the same.
    monkeypatch.setattr(tokens, "MAX_BAD", 100)
    tokenize(str(image_folder), tmp_path / "tokens", shard_size=4, workers=0)
    monkeypatch.setattr(tokens, "MAX_BAD", 1)
    with pytest.raises(UserError, match="3 of 12 images cannot be read"):
        tokenize(str(image_folder), tmp_path / "tokens", shard_size=4, workers=0)
    with pytest.raises(UserError, match="3 of 12 images cannot be read"):
        build_index([tmp_path / "tokens"], tmp_path / "input", tmp_path / "index")
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": -5}, "--images must be at least 0"),
        ({"batch_size": 0}, "--batch-size must be at least 1"),
        ({"shard_size": 0}, "--shard-size must be at least 1"),
        ({"workers": -2}, "--workers"),
        ({"held_out_share": 10.0}, "from 0 to below 1"),
        ({"held_out_share": float("nan")}, "from 0 to below 1"),
    ],
)
def test_numbers_that_make_no_sense_are_refused_before_anything_is_read(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        tokenize("digits", tmp_path / "tokens", **options)
    assert not (tmp_path / "tokens").exists()


def test_the_same_data_elsewhere_is_resumed(
    tmp_path: Path, codec: FakeCodec, image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its fingerprint says what a data set is; its path may be another one after every job of a
    cluster."""
    out = tmp_path / "tokens"
    tokenize(str(image_folder), out, shard_size=5, workers=0)
    before = contents(out)
    (out / "shard-00002.json").unlink()
    shutil.copytree(image_folder, tmp_path / "scratch" / "copy")
    calls = codec.calls
    tokenize(str(tmp_path / "scratch" / "copy"), out, shard_size=5, workers=0)
    assert contents(out) == before
    assert codec.calls == calls + 1
    capsys.readouterr()
    tokenize(str(image_folder), out, shard_size=5, workers=0)
    assert codec.calls == calls + 1
    assert "nothing to tokenize" in capsys.readouterr().out
