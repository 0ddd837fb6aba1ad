"""The training script: a run that was cut off anywhere ends the same, and what it writes is a
codec."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import train_tiny_flextok as script
from imagegram.codec import load_codec, miniatures
from imagegram.codec.tiny import TinyCodec
from imagegram.data.scenes import scene
from imagegram.files import read_json
from imagegram.metrics.coherence import Classifier, train_classifier
from tests.support.fake_codec import FakeCodec
from tests.support.images import scenes
from tests.support.scripts import run
from training import card, figures, loop, teacher, tokenizer
from training.images import Images

STEPS = "--encoder-steps 5 --decoder-steps 4"


class Interrupted(Exception):
    pass


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """The script on small batches, with classifiers hardly trained."""

    def hasty(images: Tensor, labels: Tensor, steps: int, seed: int = 0) -> Classifier:
        return train_classifier(images, labels, steps=2, batch=8, seed=seed)

    for place in (figures, teacher):
        monkeypatch.setattr(place, "train_classifier", hasty)
    for place in (figures, card):
        monkeypatch.setattr(place, "prefix_lengths", lambda tokens: (1, tokens))
    monkeypatch.setattr(figures, "ENCODED", 40)
    monkeypatch.setattr(teacher, "SHOWN", 60)
    monkeypatch.setattr(tokenizer, "BATCH", 6)
    monkeypatch.setattr(loop, "SAVE_EVERY", 2)
    monkeypatch.setattr(loop, "WARMUP", 2)
    monkeypatch.setattr(card, "SHOWN", 2)
    monkeypatch.setattr(TinyCodec, "timesteps", 1)


@pytest.fixture
def folders(tmp_path: Path) -> list[str]:
    """Two folders of pictures: one in classes, one without."""
    for i in range(45):
        picture = Image.fromarray(scene(3, i)[0])
        for place in (tmp_path / "classes" / f"{i % 2}", tmp_path / "plain"):
            place.mkdir(parents=True, exist_ok=True)
            picture.save(place / f"{i:02d}.png")
    return [str(tmp_path / "classes"), str(tmp_path / "plain")]


train = partial(run, script)


@pytest.mark.usefixtures("hasty")
def test_a_training_that_was_cut_off_goes_on_to_the_same_weights(
    tmp_path: Path, folders: list[str]
) -> None:
    def trained(name: str) -> Path:
        train("--dataset", *folders, f"--out {tmp_path / name}", STEPS)
        return tmp_path / name

    def save(stage: str, step: int, state: dict[str, object], path: Path) -> None:
        saved(state, path)
        if path.name.endswith(f"-{stage}.pt") and state["step"] == step:
            path.replace(path.with_name(f"{stage}.pt"))
            raise Interrupted

    whole, saved = trained("whole"), torch.save
    for stage, step in (("encoder", 4), ("decoder", 2)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch, "save", partial(save, stage, step))
            with pytest.raises(Interrupted):
                trained("cut")
    cut = trained("cut")
    for name in ("weights.safetensors", "training/encoder.jsonl", "training/decoder.jsonl"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes()
    assert load_codec(str(cut)).revision == load_codec(str(whole)).revision

    card_of_before = read_json(whole / "card.json")
    (whole / "card.json").unlink()
    trained("whole")
    assert read_json(whole / "card.json") == card_of_before
    written = read_json(cut / "card.json")
    assert [Path(name).name for name in written["data_sets"]] == ["classes", "plain"]
    labelled, plain = written["data_sets"].values()
    assert {"error", "error_95", "flat", "codes_min"} <= set(labelled)
    assert "real" not in {*labelled, *plain}  # of a handful of held-out images no accuracy is told
    assert labelled["training_images"] + labelled["images"] == 45
    assert (cut / "reconstructions.png").exists()
    assert "| plain" in (cut / "card.md").read_text().replace(f"{tmp_path}/", "")

    # Other decoder steps keep the encoder that is finished.
    encoder = (cut / "training" / "encoder.pt").read_bytes()
    said = train("--dataset", *folders, f"--out {cut}", STEPS.replace("4", "2"))
    assert "decoder_steps: 4 -> 2: the encoder stays" in said
    assert (cut / "training" / "encoder.pt").read_bytes() == encoder
    assert json.loads((cut / "training" / "decoder.jsonl").read_text())["step"] == 2
    assert load_codec(str(cut)).revision != load_codec(str(whole)).revision


@pytest.mark.usefixtures("hasty")
def test_a_training_begins_with_given_weights_and_ends_as_a_codec(
    tmp_path: Path, folders: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "mine"
    monkeypatch.setattr(loop, "ADAM_RATE", 1e-9)
    monkeypatch.setattr(loop, "MUON_RATE", 1e-9)
    train(f"--dataset {folders[0]} --out {out} --start tiny", STEPS)
    monkeypatch.chdir(tmp_path)
    mine, tiny = load_codec("mine"), load_codec("tiny")
    assert mine.name == str(out)
    assert mine.revision != tiny.revision
    assert mine.own_error is not None
    images = scenes(8, seed=3)
    tokens = mine.encode(images)
    # hardly trained: but for BatchNorm's averages
    assert (tokens == tiny.encode(images)).mean() > 0.8
    assert not np.array_equal(tokens[0], tokens[1])

    # The same folder is not continued with other data.
    said = train(f"--dataset {folders[1]} --out {out} --start tiny", STEPS, ends=1)
    assert "belongs to another training (" in said


def test_mistakes_are_named_before_anything_is_made(tmp_path: Path, folders: list[str]) -> None:
    first, out = folders[0], tmp_path / "out"
    for file in sorted((Path(first) / "0").iterdir())[20:]:  # 18 to train on, 2 held out
        file.unlink()
    for arguments, said in (
        (f"{first} --start nobody", "no miniature of that name or path; it is"),
        (f"{first} --encoder-steps=-1", "are positive"),
        (f"{first} --image-size 48", "--image-size is 32 or 64, not 48"),
        (f"{first} --tokens 0", "--tokens 0: a miniature has 1 to 256"),
        (f"{first} --levels 8 1", "--levels are 2 or more each"),
        (f"{first} --levels 256 256", "their product is at most 65000"),
        (f"{first} --image-size 64 --start tiny", "tiny has 32: give --image-size 32"),
        (f"{first} --tokens 8 --start tiny", "tiny has 16: give --tokens 16"),
        (f"{first} --levels 5 --start tiny", "tiny has 8 8 8: give --levels"),
        (f"{first} {first}", "takes 1 to 12 different data sets"),
        (f"{first} {first}/", "are the same data set"),
        (f"{first} --out {folders[1]}", "holds files that are not a codec"),
        (f"{first}/0", "at least 20 and 2 are needed"),
    ):
        assert said in train(f"--out {out} --dataset {arguments}", ends=1)
    assert not out.exists()


@pytest.mark.usefixtures("hasty")
def test_a_miniature_of_64_pixels_is_a_codec_too(tmp_path: Path, folders: list[str]) -> None:
    sizes = "--image-size 64 --tokens 24 --levels 8 5 5"
    said = train(f"--dataset {folders[0]} --out {tmp_path}/large", sizes, STEPS)
    (line,) = (line for line in said.splitlines() if "train it longer" in line)
    assert "--encoder-steps 20 --decoder-steps 16 for example" in line
    codec = load_codec(str(tmp_path / "large"))
    assert (codec.image_size, codec.tokens_per_image, codec.levels) == (64, 24, (8, 5, 5))
    tokens = codec.encode(scenes(3, seed=3, size=64))
    assert tokens.shape == (3, 24)
    assert codec.decode(tokens, range(3), 1, 1.0).shape == (3, 3, 64, 64)
    assert read_json(tmp_path / "large" / "card.json")["training"]["image_size"] == 64


@pytest.mark.parametrize("held_out", [39, 40])
def test_a_card_tells_accuracies_with_their_intervals_of_40_images_and_more(
    monkeypatch: pytest.MonkeyPatch, held_out: int, tmp_path: Path
) -> None:
    class Bright(Classifier):
        def probabilities(self, images: Tensor, batch: int = 0) -> Tensor:
            return torch.nn.functional.one_hot((images.flatten(1).mean(1) > 0).long(), 2).double()

    labels = torch.arange(60) % 2
    pixels = (labels * 255).byte().reshape(-1, 1, 1, 1).expand(-1, 3, 32, 32)
    images = Images("x", "", pixels, labels, torch.arange(60) < held_out)
    monkeypatch.setattr(figures, "prefix_lengths", lambda tokens: (1,))
    monkeypatch.setattr(figures, "load_classifier", lambda images, path: Bright(2))
    # The pictures of seeds 400 to 439 have the levels 144 to 183: all are bright, as half of the
    # labels say.
    found = figures.evaluate(FakeCodec(), images, tmp_path)
    if held_out == 39:
        assert "real" not in found
        return
    z2 = 1.959964**2
    real, half = found["real"], found["relative_1"]
    assert (real.value, real.high) == (1, pytest.approx(1))
    assert real.low == pytest.approx(40 / (40 + z2))
    assert half.value == 0.5
    assert half.low == pytest.approx(0.5 - 0.5 * np.sqrt(z2 / (40 + z2)))
    recipe = {"encoder_steps": 1, "decoder_steps": 1, "start": ""}
    tiny = TinyCodec(miniatures.SHIPPED / "tiny", "tiny")
    text = card.card_text(tiny, {"x": found}, recipe)
    assert "| 1.00 (0.91 to 1.00) | 0.50 (0.35 to 0.65) |" in text


def test_a_training_says_whether_to_train_longer() -> None:
    recipe = {"encoder_steps": 10, "decoder_steps": 30}
    # nearly all of the 512
    good = {"error": 20.0, "flat": 80.0, "codes_median": 500.0, "tokenized": 5000.0}
    longer = "warning: train it longer, --encoder-steps 40 --decoder-steps 120 for example: of b"
    used = "trained long enough to be used: of b it is off by 40 levels of 255, flat pictures by 80"
    for worse, start, end in (
        ({"error": 40.0}, used, used),
        (
            {"error": 70.0},
            longer,
            "is hardly below the 80 of flat pictures of each image's mean colour",
        ),
        ({"codes_median": 9.0}, longer, "have 9 different codes at a position"),
    ):
        said = card.advice({"a": good, "b": good | worse}, recipe)
        assert said.startswith(start)
        assert said.endswith(end)


def test_the_classifier_of_a_training_is_trained_anew_where_its_images_or_settings_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pixels = torch.randint(0, 256, (12, 3, 32, 32), dtype=torch.uint8)
    numbers = torch.arange(12)
    images = Images("cats", "a fingerprint", pixels, numbers % 3, numbers % 4 == 0)
    monkeypatch.setattr(figures, "train_classifier", lambda images, labels, steps: Classifier(3))

    def is_trained(images: Images) -> bool:
        figures.load_classifier(images, tmp_path / "classifier.pt")
        return "training the classifier" in capsys.readouterr().out

    for changed in (
        images,
        replace(images, fingerprint="another"),
        replace(images, label_column="x"),
        replace(images, held_out=numbers == 0),
    ):
        assert is_trained(changed)
        assert not is_trained(changed)
    assert is_trained(images)
    constants = {"CLASSIFIER_STEPS": (3, 3), "TRAINED_ON": 7, "FIGURES_VERSION": 99}
    for constant, value in constants.items():
        monkeypatch.setattr(figures, constant, value)
        assert is_trained(images), constant
