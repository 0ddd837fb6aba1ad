"""What the tests share: how they run, a quick codec, a few pictures."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from threadpoolctl import threadpool_limits

from imagegram import artifact, tokenizing
from imagegram.data.scenes import scene
from tests.support.fake_codec import FakeCodec

os.environ["HF_HUB_OFFLINE"] = "1"  # no test may wait for a hub
# What tests expect, bytes and messages, is that of the CPU. A test of a GPU asks in a process of
# its own, which sees those that the first of pytest's processes saw.
GPUS = os.environ.setdefault("TESTS_GPUS", os.environ.get("CUDA_VISIBLE_DEVICES", "all"))
os.environ["CUDA_VISIBLE_DEVICES"] = ""
# One thread: what is small gains nothing from two, which wait for each other on a busy machine.
os.environ["OMP_NUM_THREADS"] = "1"  # of the programs that tests start
torch.set_num_threads(1)
threadpool_limits(1, user_api="blas")


@pytest.fixture(scope="session", autouse=True)
def _no_waiting_for_the_disk() -> Iterator[None]:
    """A process that is killed loses nothing that it has written; only a power cut would."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        yield


@pytest.fixture(autouse=True)
def _nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the tests' own process is one of several, no others are about to begin."""
    monkeypatch.setattr(artifact, "GRACE", -1)


@pytest.fixture
def codec(monkeypatch: pytest.MonkeyPatch) -> FakeCodec:
    """What images are tokenized with."""
    fake = FakeCodec()
    monkeypatch.setattr(tokenizing, "load_codec", lambda name: fake)
    return fake


@pytest.fixture
def pictures() -> list[Image.Image]:
    """Twelve different pictures of 32 x 32."""
    return [Image.fromarray(scene(1, i)[0]) for i in range(12)]


@pytest.fixture
def image_folder(tmp_path: Path, pictures: list[Image.Image]) -> Path:
    """A folder of two classes, six PNG files each."""
    root = tmp_path / "pictures"
    for i, picture in enumerate(pictures):
        (root / f"class{i % 2}").mkdir(parents=True, exist_ok=True)
        picture.save(root / f"class{i % 2}" / f"{i:02d}.png")
    return root
