"""The contract of token folders: what is finished, what is damaged, what is refused."""

import json
from contextlib import nullcontext
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from imagegram.cli import UserError
from imagegram.data.dataset import held_out
from imagegram.data.spec import DatasetSpec
from imagegram.manifest import Manifest
from imagegram.tokens import TokenFolder, check_tokens
from tests.support.corpora import manifest_of

SIZES = {"images": 25, "shard_size": 10, "tokens_per_image": 4, "vocab_size": 100}
MANIFEST = manifest_of(fingerprint="f", codec="fake", held_out_share=0.2, levels=(10, 10), **SIZES)


def fill(path: Path) -> TokenFolder:
    """Three shards of 10, 10 and 5 images; ordinals 3 and 21 are bad."""
    folder = TokenFolder.create(path, MANIFEST)
    for shard in range(3):
        covered = [i for i in folder.range(shard) if i not in (3, 21)]
        tokens = np.array([[i, i + 1, i + 2, i + 3] for i in covered])
        bad = {i: "torn" for i in folder.range(shard) if i in (3, 21)}
        folder.write(shard, tokens, np.array(covered) % 7, bad, 1.0)
    return folder


def test_rows_labels_and_ordinals_come_back(tmp_path: Path) -> None:
    folder = fill(tmp_path)
    corpus = TokenFolder.open(tmp_path).load()
    kept = [i for i in range(25) if i not in (3, 21)]
    assert corpus.tokens.dtype == np.uint16
    assert corpus.tokens[:, 0].tolist() == kept == corpus.ordinals.tolist()
    assert corpus.labels.tolist() == [i % 7 for i in kept]
    assert (corpus.held_out == held_out(np.array(kept), 0.2)).all()
    assert folder.bad() == {3: "torn", 21: "torn"}
    marker = json.loads((tmp_path / "shard-00002.json").read_text())
    assert (marker["first"], marker["ok"], marker["bad"]) == (20, 4, [[21, "torn", ""]])
    assert (marker["seconds"], marker["images_per_second"]) == (1.0, 4.0)
    assert (folder.images(), folder.seconds()) == (23, 3.0)
    assert folder.write_bad() == 2
    lines = (tmp_path / "bad.jsonl").read_text().splitlines()
    assert [json.loads(line)["ordinal"] for line in lines] == [3, 21]
    assert not list(tmp_path.glob(".tmp-*"))


def test_every_damage_is_seen_and_only_that_shard_is_pending(tmp_path: Path) -> None:
    folder = fill(tmp_path)
    assert folder.pending() == []
    data, labels, marker = "shard-00001.npy", "labels-00001.npy", "shard-00001.json"
    whole = {name: (tmp_path / name).read_bytes() for name in (data, labels, marker)}
    record = json.loads(whole[marker])
    too_many = record | {"bad": [[10, "x"]]}
    other = record | {"manifest": record["manifest"] | {"revision": "s"}}
    for name, content, problem in (
        (data, whole[data][:-1], f"{data} is cut short or too long"),
        (data, whole[data][:-8], f"{data} is cut short or too long"),  # one row
        (labels, whole[labels] + b"x", f"{labels} is cut short or too long"),
        (data, None, f"{data} is missing"),
        (marker, None, f"{marker} is missing"),
        (marker, b"{", "is damaged"),
        (marker, json.dumps(too_many).encode(), "does not account for every image"),
        (marker, json.dumps(other).encode(), "was made under another manifest"),
    ):
        file = tmp_path / name
        file.unlink() if content is None else file.write_bytes(content)
        assert folder.pending() == [1]
        assert folder.problem(1) == problem
        with pytest.raises(UserError, match="shard 1"):
            folder.load()
        file.write_bytes(whole[name])
        assert folder.pending() == []


def test_bad_images_beyond_both_limits_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fill(tmp_path)
    for number, share, refused in ((1, 0.08, False), (1, 0.079, True), (2, 0.01, False)):
        monkeypatch.setattr("imagegram.tokens.MAX_BAD", number)
        monkeypatch.setattr("imagegram.tokens.MAX_BAD_SHARE", share)
        with pytest.raises(UserError, match="2 of 25 images") if refused else nullcontext():
            folder.check_readable()


def test_one_flipped_bit_is_found_by_the_hash(tmp_path: Path) -> None:
    folder = fill(tmp_path)
    file = tmp_path / "shard-00002.npy"
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)
    assert folder.problem(2) is None  # same size: only reading it all tells
    assert folder.problem(2, hashes=True) == "shard-00002.npy differs from its hash"


def test_another_manifest_is_refused_with_the_difference(tmp_path: Path) -> None:
    fill(tmp_path)
    with pytest.raises(UserError, match="codec: 'fake' -> 'other'; tokens_per_image: 4 -> 8"):
        TokenFolder.create(tmp_path, replace(MANIFEST, codec="other", tokens_per_image=8))
    said = r"other tokens \(fingerprint: .*\): what is finished stays"
    with pytest.raises(UserError, match=said):
        TokenFolder.create(tmp_path, replace(MANIFEST, fingerprint="other"))


@pytest.mark.parametrize("name", ["bad.jsonl", "shard-00000.npy", "thesis.tex", "manifest.json"])
def test_tokens_are_written_over_nobodys_files(tmp_path: Path, name: str) -> None:
    (tmp_path / ".lock-0").touch()  # of a run that was refused
    TokenFolder.create(tmp_path / "new", MANIFEST)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / name).write_text('["mine"]')
    with pytest.raises(UserError, match=r"not (of )?tokens"):
        TokenFolder.create(tmp_path / "foreign", MANIFEST)
    assert [file.read_text() for file in (tmp_path / "foreign").iterdir()] == ['["mine"]']


def test_missing_and_empty_data_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"run tokenize_fast\.py first"):
        TokenFolder.open(tmp_path)
    with pytest.raises(UserError, match="has no images"):
        TokenFolder.create(tmp_path, replace(MANIFEST, images=0))
    (tmp_path / "manifest.json").write_text('{"images": 3, "dataset": {"name": "x"}}')
    with pytest.raises(UserError, match=r"manifest\.json was written by another version"):
        TokenFolder.open(tmp_path)
    with pytest.raises(UserError, match="vocabulary of 65280 does not fit"):
        TokenFolder.create(tmp_path, replace(MANIFEST, vocab_size=65280))


@pytest.mark.parametrize("wrong", [-1, 512, 65535, 65536 + 3, 2**40])
def test_ids_that_would_wrap_are_refused_before_the_cast(wrong: int) -> None:
    with pytest.raises(UserError, match=r"outside \[0, 512\)"):
        check_tokens(np.array([[0, 511], [wrong, 3]], np.int64), 512)
    assert check_tokens(np.array([[0, 511]], np.int64), 512).dtype == np.uint16


OF_PLACES = {"dataset", "codec"}  # the same data and weights may lie elsewhere


@pytest.mark.parametrize(
    "changed", [field.name for field in fields(Manifest) if field.name not in OF_PLACES]
)
def test_tokens_are_refused_whenever_anything_that_they_depend_on_changes(
    tmp_path: Path, changed: str
) -> None:
    other = {str: "another", int: 7, float: 0.7, tuple: (7, 7)}[type(getattr(MANIFEST, changed))]
    TokenFolder.create(tmp_path, MANIFEST)
    different = replace(MANIFEST, **{changed: other})  # type: ignore[arg-type]
    said = rf"holds .*tokens.* \({changed}: .*choose another folder with --out"
    with pytest.raises(UserError, match=said):
        TokenFolder.create(tmp_path, different)
    TokenFolder.create(tmp_path, replace(MANIFEST, dataset=DatasetSpec("elsewhere"), codec="moved"))
