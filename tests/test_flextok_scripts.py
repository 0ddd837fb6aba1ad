"""The scripts end to end: a tiny random FlexTok, a saved data set with cifar10's columns."""

import importlib.util
import json
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from imagegram.codec import load_codec
from imagegram.codec.flextok import FlexTokCodec
from imagegram.data.preprocess import preprocess
from imagegram.data.scenes import scene
from imagegram.tokens import TokenFolder
from tests.support.random_flextok import Shape, save_random_flextok
from tests.support.scripts import build, run_generate, run_tokenize

if importlib.util.find_spec("flextok") is None:
    pytest.skip(
        "the flextok package is not installed (requirements-flextok.txt)", allow_module_level=True
    )

IMAGES, TOKENS = 24, 32
NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_flextok(tmp_path_factory.mktemp("codec"), Shape((64, 1), (64, 1), TOKENS))


@pytest.fixture(scope="module")
def cifar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cifar")
    types = {"img": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)}
    pictures = [Image.fromarray(scene(2, i)[0]) for i in range(IMAGES)]
    rows = {"img": pictures, "label": [i % 10 for i in range(IMAGES)]}
    data = datasets.Dataset.from_dict(rows, features=datasets.Features(types))
    datasets.DatasetDict({"train": data, "test": data.select(range(5))}).save_to_disk(folder)
    return folder


def test_tokenize_index_and_generate(codec: Path, cifar: Path, tmp_path: Path) -> None:
    tokenizing = f"--dataset {cifar} --codec {codec} --shard-size 10 --batch-size 7 --workers 1"
    run_tokenize(tokenizing, f"--out {tmp_path}/tokens")
    folder = TokenFolder.open(tmp_path / "tokens")
    m, corpus = folder.manifest, folder.load()
    sizes = (m.precision, m.tokens_per_image, m.vocab_size, m.image_size)
    assert sizes == ("float32", TOKENS, 64000, 256)
    columns = (m.codec, m.image_column, m.label_column, m.class_names)
    assert columns == (str(codec), "img", "label", tuple(NAMES))
    assert corpus.labels.tolist() == [i % 10 for i in range(IMAGES)]
    pixels = preprocess(Image.fromarray(scene(2, 23)[0]), 256)
    assert np.array_equal(load_codec(str(codec)).encode(pixels[None])[0], corpus.tokens[23])

    build(tmp_path, tmp_path / "tokens")
    asked = f"--index {tmp_path}/index --sequences 8 --decoded 2 --timesteps 2 --prefixes 1"
    run_generate(asked, f"--out {tmp_path}/made")
    assert np.load(tmp_path / "made" / "tokens.npy").shape == (8, TOKENS)
    assert Image.open(tmp_path / "made" / "image_0001.png").size == (256, 256)
    # 1, 2, 4, 8, 16, 32 tokens
    assert Image.open(tmp_path / "made" / "prefixes.png").width > 6 * 256
    assert Image.open(tmp_path / "made" / "seeds.png").width > 6 * 256
    report = json.loads((tmp_path / "made" / "report.json").read_text())
    assert report["request"]["guidance_scale"] == FlexTokCodec.guidance_scale
