"""The real FlexTok behind the codec interface, against its stock calls; and what is said where it is missing."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from imagegram.codec import load_codec
from imagegram.common import UserError
from imagegram.flextok_codec import FlexTokCodec
from imagegram.shapes import scene
from tests.random_flextok import save_random_flextok

needs_flextok = pytest.mark.skipif(
    importlib.util.find_spec("flextok") is None,
    reason="the flextok package is not installed (requirements-flextok.txt)",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_flextok(tmp_path_factory.mktemp("flextok"))


@pytest.fixture(scope="module")
def codec(folder: Path) -> Any:
    return load_codec(str(folder))


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.stack([torch.from_numpy(scene(0, i, 256)[0]).permute(2, 0, 1) for i in range(3)])


@needs_flextok
def test_sizes_are_read_from_the_model(codec: FlexTokCodec) -> None:
    assert (codec.image_size, codec.tokens_per_image, codec.vocab_size) == (256, 256, 64000)
    assert codec.levels == (8, 8, 8, 5, 5, 5)
    assert len(codec.revision) == 16


@needs_flextok
def test_tokens_are_those_of_the_stock_call_at_the_posterior_mean(codec: FlexTokCodec, images: torch.Tensor) -> None:
    tokens = codec.encode(images)
    with torch.inference_mode():
        stock = torch.cat(codec.model.tokenize(images.float() / 127.5 - 1))
    assert tokens.dtype == np.uint16
    assert np.array_equal(tokens, stock.numpy())
    assert np.array_equal(codec.encode(images[1:2])[0], tokens[1])
    assert (tokens[0] != tokens[1]).mean() > 0.5  # no constant tokens: the comparison means something
    codec.model.vae.sample_posterior = True
    sampled = codec.encode(images)
    codec.model.vae.sample_posterior = False
    assert (sampled != tokens).any()  # the class default would have given other tokens


@needs_flextok
def test_images_are_those_of_the_stock_call_and_ignore_the_batch(codec: FlexTokCodec, images: torch.Tensor) -> None:
    tokens = [row[:k] for row, k in zip(codec.encode(images), (256, 1, 64), strict=True)]
    decoded = codec.decode(tokens, [5, 6, 7], 2, 3.0)
    assert (decoded.shape, decoded.dtype) == ((3, 3, 256, 256), torch.uint8)
    alone = codec.decode(tokens[1:2], [6], 2, 3.0)
    assert (alone[0].int() - decoded[1].int()).abs().max() <= 1
    codec.model.pipeline.noise_read_key = None  # as the package has it
    ids = [torch.from_numpy(tokens[0].astype(np.int64))[None]]
    with torch.inference_mode():
        stock = codec.model.detokenize(
            ids,
            timesteps=2,
            guidance_scale=3.0,
            perform_norm_guidance=True,
            generator=torch.Generator().manual_seed(5),
            verbose=False,
        )
    codec.model.pipeline.noise_read_key = "imagegram_noise"
    expected = ((stock.clamp(-1, 1) + 1) * 127.5).round()
    assert (expected[0] - decoded[0]).abs().max() <= 1
    assert decoded.float().std() > 1


def test_without_the_package_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flextok.flextok_wrapper", None)
    with pytest.raises(UserError, match=r"pip install -r requirements-flextok\.txt, or use --codec tiny"):
        load_codec("EPFL-VILAB/flextok_d18_d28_dfn")


@pytest.mark.parametrize("name", ["flextok", "/no/such/folder", "a/b/c"])
def test_unknown_codecs_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="unknown codec"):
        load_codec(name)


@needs_flextok
def test_without_the_hub_one_line_says_so() -> None:
    with pytest.raises(UserError, match="cannot reach the Hugging Face hub"):
        load_codec("EPFL-VILAB/flextok_d18_d28_dfn")
