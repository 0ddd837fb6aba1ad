"""Tokenizing: the same bytes, whatever happens to the images or their folder meanwhile."""

import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from imagegram import tokenizing, tokens
from imagegram.cli import UserError
from imagegram.data.loading import Item, load_batches
from imagegram.index.build import build_index
from imagegram.tokens import TokenFolder
from tests.support.fake_codec import FakeCodec
from tests.support.tokenize import contents, tokenize


def job(folder: Path, out: Path, **options: Any) -> TokenFolder:
    """A folder of pictures in shards of four."""
    return tokenize(str(folder), out, **{"shard_size": 4, "workers": 0} | options)


def before_batch(monkeypatch: pytest.MonkeyPatch, actions: dict[int, Callable[[], object]]) -> None:
    """Do something before the loader reads the batch of that number."""

    def load(*arguments: Any) -> Iterator[list[Item]]:
        batches = iter(load_batches(*arguments))
        for number in itertools.count():
            actions.get(number, lambda: None)()
            if (batch := next(batches, None)) is None:
                return
            yield batch

    monkeypatch.setattr(tokenizing, "load_batches", load)


def test_nothing_but_bad_images_is_an_error(tmp_path: Path, codec: FakeCodec) -> None:
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(b"")
    said = r"none of the 3 images can be read: .*bad\.jsonl names them"
    with pytest.raises(UserError, match=said):
        job(tmp_path, tmp_path / "tokens")


def test_a_data_set_that_is_gone_for_a_while_costs_no_shard(
    tmp_path: Path, codec: FakeCodec, image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job(image_folder, tmp_path / "whole")
    encode, away, out = codec.encode, tmp_path / "away", tmp_path / "tokens"

    def unmount(images: Any) -> Any:
        if image_folder.exists():
            image_folder.rename(away)
        return encode(images)

    monkeypatch.setattr(codec, "encode", unmount)
    said = r"changed while it was tokenized: [1-4] of 4 images of shard [12] "
    with pytest.raises(UserError, match=said):
        job(image_folder, out)
    assert list(out.glob("shard-*.json"))
    away.rename(image_folder)
    monkeypatch.setattr(codec, "encode", encode)
    job(image_folder, out)
    assert contents(out) == contents(tmp_path / "whole")


@pytest.mark.parametrize("returns", [False, True])
def test_a_shard_in_whose_midst_the_data_set_went_is_not_finished(
    tmp_path: Path,
    image_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    codec: FakeCodec,
    returns: bool,
) -> None:
    away = tmp_path / "away"
    actions: dict[int, Callable[[], object]] = {6: lambda: image_folder.rename(away)}
    if returns:
        actions[7] = lambda: away.rename(image_folder)
    before_batch(monkeypatch, actions)
    what = rf"{1 if returns else 2} of 4 images of shard 1 "
    with pytest.raises(UserError, match=what + r".*class\d/\d\d.png .*cannot be read any more"):
        job(image_folder, tmp_path / "tokens", batch_size=1)
    (finished,) = (tmp_path / "tokens").glob("shard-*.json")
    assert finished.name == "shard-00000.json"


def test_one_image_that_is_deleted_meanwhile_is_a_bad_image(
    tmp_path: Path, codec: FakeCodec, image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before_batch(monkeypatch, {4: (image_folder / "class0" / "08.png").unlink})
    folder = job(image_folder, tmp_path / "tokens", batch_size=1)
    assert next(iter(folder.bad().values())).startswith("ChangedError")


def test_too_many_bad_images_stop_the_run(
    tmp_path: Path, codec: FakeCodec, image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "MAX_BAD", 1)
    out = tmp_path / "tokens"
    for i in (0, 2, 4):
        (image_folder / "class0" / f"{i:02d}.png").write_bytes(b"")
    for _ in range(2):  # what was refused is refused again, and is no input of an index
        with pytest.raises(UserError, match="3 of 4 images cannot be read"):
            job(image_folder, out)
    # A folder that was finished all the same.
    monkeypatch.setattr(tokens, "MAX_BAD", 100)
    job(image_folder, out)
    monkeypatch.setattr(tokens, "MAX_BAD", 1)
    with pytest.raises(UserError, match="3 of 12 images cannot be read"):
        job(image_folder, out)
    with pytest.raises(UserError, match="3 of 12 images cannot be read"):
        build_index([out], tmp_path / "input", tmp_path / "index")
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": -5}, "--images must be at least 0"),
        ({"batch_size": 0}, "--batch-size must be at least 1"),
        ({"shard_size": 0}, "--shard-size must be at least 1"),
        ({"workers": -2}, "--workers must be -1"),
        ({"jpeg_margin": -1}, "--jpeg-margin must not be negative, is -1; 0 decodes"),
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
    """Its fingerprint says what a data set is; every job of a cluster may see another path."""
    out, copy = tmp_path / "tokens", tmp_path / "scratch" / "copy"
    job(image_folder, out)
    before = contents(out)
    (out / "shard-00002.json").unlink()
    shutil.copytree(image_folder, copy)
    calls = codec.calls
    job(copy, out)
    assert contents(out) == before
    assert codec.calls == calls + 1
    capsys.readouterr()
    job(image_folder, out)
    assert codec.calls == calls + 1
    assert "nothing to tokenize" in capsys.readouterr().out
