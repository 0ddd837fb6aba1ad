"""A codec says so where it does not know images; and is known by its weights, wherever they lie."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from imagegram import tokenizing
from imagegram.cli import UserError
from imagegram.codec import familiarity, load_codec, miniatures
from imagegram.codec.flextok import FlexTokCodec
from imagegram.codec.tiny_flextok import TinyFlexTok
from imagegram.data.dataset import permutation
from imagegram.data.spec import DatasetSpec
from imagegram.files import read_json
from tests.support.datasets import encoded, put
from tests.support.fake_codec import FakeCodec
from tests.support.images import scenes
from tests.support.scripts import build, run_generate, run_tokenize
from tests.support.tokenize import tokenize


def test_errors_are_those_of_the_decoded_images() -> None:
    codec = load_codec("tiny")
    images = scenes(4)
    tokens = codec.encode(images)
    errors = familiarity.reconstruction_errors(codec, images, tokens)
    rebuilt = codec.decode(tokens, range(4), 4, 1.0).numpy()
    expected = np.square(rebuilt - images.numpy().astype(float)).mean((1, 2, 3)) ** 0.5
    assert np.allclose(errors, expected)


def test_the_threshold_is_that_of_the_data_set_with_the_largest_errors() -> None:
    errors = {"a": {"error": 9.0, "error_95": 10.0}, "b": {"error": 8.0, "error_95": 12.0}}
    assert miniatures.own_error({"data_sets": errors}) == (8.0, 12.0)
    known = familiarity.Familiarity("tiny", "x", 32, 12.0, 8.0, 12.0)
    assert known.warning() == ""
    unknown = familiarity.Familiarity("tiny", "x", 32, 12.1, 8.0, 12.0)
    assert "--dataset x --start tiny" in unknown.warning()
    assert "\n" not in unknown.warning()
    assert FlexTokCodec.own_error is None


def test_a_codec_that_keeps_nothing_is_named_though_its_own_card_is_no_better(
    tmp_path: Path,
) -> None:
    def said(error: float, flat: float, codes: float = 30.0) -> str:
        of_all = ("mine", "x", 32, error, 99.0, 99.0, flat)
        return familiarity.Familiarity(*of_all, different=32, codes=codes).warning()

    assert said(20, 80) == ""
    fault = "its error of 70 levels of 255 is hardly below the 80 of flat pictures"
    assert f"keeps next to nothing: {fault}" in said(70, 80)
    assert "is above the 80 of flat pictures" in said(90, 80)
    assert "32 different images have 3 different codes at a position" in said(20, 80, codes=3)
    shutil.copytree(miniatures.SHIPPED / "tiny", tmp_path / "random")
    torch.manual_seed(0)
    TinyFlexTok().save(tmp_path / "random" / miniatures.WEIGHTS)
    codec = load_codec(str(tmp_path / "random"))
    codec.own_error = (200.0, 200.0)
    found = familiarity.judge(codec, DatasetSpec("shapes", images=8).open())
    assert found is not None
    assert "keeps next to nothing" in found.warning()
    whole = scenes(8).double().permute(0, 2, 3, 1)
    flat = ((whole - whole.mean((1, 2), keepdim=True)) ** 2).mean((1, 2, 3)).sqrt()
    assert found.flat == pytest.approx(np.median(flat.numpy()), abs=0.01)


def test_images_unlike_its_own_are_named_when_tokenizing_and_generating(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), np.uint8)
    for i, pixels in enumerate(noise):
        put(tmp_path / "noise" / f"{i:02d}.png", encoded(Image.fromarray(pixels), "PNG"))
    for _ in range(2):  # the second run finds all finished and says it again
        said = run_tokenize(f"--dataset {tmp_path}/noise --out {tmp_path}/tokens --workers 0")
        assert said.count("warning: the codec tiny does not know images like these") == 1
    build(tmp_path, tmp_path / "tokens")
    asked = f"--index={tmp_path}/index --sequences=8 --decoded=0 --out={tmp_path}/made"
    assert "does not know images like these" in run_generate(asked)

    said = run_tokenize(f"--dataset digits --images 40 --out {tmp_path}/digits")
    assert "does not know" not in said
    assert familiarity.warning_of(tmp_path / "digits") == ""


def test_images_from_all_over_the_data_set_are_judged_whatever_the_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec = FakeCodec(own_error=(1.0, 2.0))
    monkeypatch.setattr(tokenizing, "load_codec", lambda name: codec)
    for i in range(120):  # a black class and a white one
        content = encoded(Image.new("L", (8, 8), 255 * (i // 60)), "PNG")
        put(tmp_path / "d" / "bw"[i // 60] / f"{i:03d}.png", content)
    found = []
    for size in (3, 50):
        out, sizes = tmp_path / f"{size}", {"batch_size": size, "shard_size": size}
        tokenize(str(tmp_path / "d"), out, workers=0, **sizes)
        found.append(read_json(out / familiarity.FILE))
    assert found[0] == found[1]
    # The picture of every seed is the level of its number, so that the error is as well.
    whites = permutation(120)[:32] >= 60
    assert 8 < whites.sum() < 24
    assert found[0]["error"] == np.median(np.where(whites, 255 - np.arange(32), np.arange(32)))


def test_a_codec_in_a_folder_is_known_by_its_weights(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    shutil.copytree(miniatures.SHIPPED / "tiny", mine)
    assert load_codec(str(mine)).revision == load_codec("tiny").revision

    tokens = f"--dataset digits --images 60 --out {tmp_path}/tokens --workers 0"
    run_tokenize(tokens, f"--codec {mine}")
    build(tmp_path, tmp_path / "tokens")
    made = f"ntd --index {tmp_path}/index --sequences 8 --decoded 2 --prefixes 0 --out {tmp_path}/"
    run_generate(made + "a")

    moved = mine.rename(tmp_path / "moved")
    # the same codec: nothing to do
    assert "all 1 shards are finished" in run_tokenize(tokens, f"--codec {moved}")
    assert "is gone: say where it is with --codec" in run_generate(made + "b", ends=1)
    run_generate(made + "b", f"--codec {moved}")
    pictures = [(tmp_path / run / "image_0001.png").read_bytes() for run in "ab"]
    assert pictures[0] == pictures[1]

    torch.manual_seed(0)
    TinyFlexTok().save(moved / miniatures.WEIGHTS)
    said = run_generate(made + "c", f"--codec {moved}", ends=1)
    assert "tokenize and index again" in said


def test_a_training_that_is_not_finished_is_no_codec(tmp_path: Path) -> None:
    (tmp_path / "half" / "training").mkdir(parents=True)
    with pytest.raises(UserError, match="is not finished"):
        load_codec(str(tmp_path / "half"))


@pytest.mark.parametrize("name", miniatures.shipped())
def test_what_is_shipped_keeps_more_than_a_flat_picture(name: str) -> None:
    card = read_json(miniatures.SHIPPED / name / miniatures.CARD)
    for row in card["data_sets"].values():
        judged = (row["error"], row["flat"], row["codes_median"], int(row["tokenized"]))
        assert not familiarity.too_little(*judged)
        assert row["error"] < row["flat"] / 2
