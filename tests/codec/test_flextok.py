"""The real FlexTok behind the codec interface, against its own calls; and what is said where
something is missing."""

import importlib.util
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from imagegram.cli import UserError
from imagegram.codec import flextok as flextok_codec
from imagegram.codec import load_codec
from imagegram.codec.flextok import ZOO, FlexTokCodec, oom_as_user_error
from imagegram.machine import choose_device
from imagegram.tokens import SEPARATOR
from tests.support.images import scenes
from tests.support.random_flextok import save_random_flextok, stock_on_cpu

needs_flextok = pytest.mark.skipif(
    importlib.util.find_spec("flextok") is None,
    reason="the flextok package is not installed (requirements-flextok.txt)",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_flextok(tmp_path_factory.mktemp("flextok"))


def fresh(folder: Path) -> Any:
    """A codec that no other test shares."""
    flextok_codec._loaded.cache_clear()
    codec = load_codec(str(folder))
    flextok_codec._loaded.cache_clear()
    return codec


@pytest.fixture(scope="module")
def codec(folder: Path) -> Any:
    return fresh(folder)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return scenes(3, size=256)


def apart(one: torch.Tensor, other: torch.Tensor) -> int:
    """The largest difference of two pictures, in grey levels."""
    return int((one.int() - other.int()).abs().max())


@needs_flextok
def test_sizes_are_read_from_the_model(codec: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert (codec.image_size, codec.tokens_per_image, codec.vocab_size) == (256, 256, 64000)
    assert codec.levels == (8, 8, 8, 5, 5, 5)
    assert len(codec.revision) == 16
    capsys.readouterr()
    assert FlexTokCodec("again", "r", codec.model).precision == "float32"
    said = "codec again on cpu in float32 (no CUDA GPU: expect seconds for each image)\n"
    assert capsys.readouterr().out == said


@needs_flextok
def test_a_model_is_loaded_once_until_its_weights_change(
    folder: Path, codec: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    once = load_codec(str(folder))
    capsys.readouterr()
    assert load_codec(str(folder), once.revision) is once
    assert capsys.readouterr().out == ""
    os.utime(folder / "model.safetensors")
    assert load_codec(str(folder)) is not once


@needs_flextok
def test_a_vocabulary_that_does_not_fit_is_refused(
    codec: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codec.model.regularizer, "codebook_size", 70_000)
    with pytest.raises(UserError, match="has 70000 tokens of levels"):
        FlexTokCodec("large", "r", codec.model)


@needs_flextok
def test_tokens_are_those_of_the_stock_call_at_the_posterior_mean(
    codec: Any, images: torch.Tensor
) -> None:
    tokens = codec.encode(images)
    model = stock_on_cpu(codec.model)
    with torch.inference_mode():
        stock = torch.cat(model.tokenize(images.float() / 127.5 - 1))
        model.vae.sample_posterior = True
        sampled = torch.cat(model.tokenize(images.float() / 127.5 - 1))
        model.vae.sample_posterior = False
    assert tokens.dtype == np.uint16
    assert np.array_equal(tokens, stock.numpy())
    assert np.array_equal(codec.encode(images[1:2])[0], tokens[1])
    # no constant tokens: the comparison means something
    assert (tokens[0] != tokens[1]).mean() > 0.5
    assert (sampled != stock).any()  # the class default would have given other tokens


@needs_flextok
def test_images_are_those_of_the_stock_call_and_ignore_the_batch(
    codec: Any, images: torch.Tensor
) -> None:
    tokens = [row[:k] for row, k in zip(codec.encode(images), (256, 1, 64), strict=True)]
    decoded = codec.decode(tokens, [5, 6, 7], 2, 3.0)
    assert (decoded.shape, decoded.dtype) == ((3, 3, 256, 256), torch.uint8)
    assert apart(codec.decode(tokens[1:2], [6], 2, 3.0)[0], decoded[1]) <= 1
    assert apart(codec.decode(tokens[1:2], [8], 2, 3.0)[0], decoded[1]) > 10
    assert apart(codec.decode(tokens[::-1], [7, 6, 5], 2, 3.0).flip(0), decoded) <= 1
    codec.model.pipeline.noise_read_key = None  # as the package has it
    options: dict[str, Any] = {"timesteps": 2, "guidance_scale": 3.0}
    options |= {"perform_norm_guidance": True, "verbose": False}
    rng = torch.Generator().manual_seed(5)
    ids = [torch.from_numpy(tokens[0].astype(np.int64))[None]]
    with torch.inference_mode():
        stock = stock_on_cpu(codec.model).detokenize(ids, generator=rng, **options)
    codec.model.pipeline.noise_read_key = flextok_codec.NOISE
    assert apart(((stock.clamp(-1, 1) + 1) * 127.5).round()[0], decoded[0]) <= 1
    assert decoded.float().std() > 1


@needs_flextok
def test_prefixes_of_no_length_are_refused(codec: Any) -> None:
    with pytest.raises(UserError, match="decodes 1 to 256 tokens, not 0 to 257"):
        codec.decode([np.zeros(0, np.uint16), np.zeros(257, np.uint16)], [0, 1], 1, 1.0)


@needs_flextok
def test_a_model_that_is_not_covered_runs_through_its_own_calls(
    codec: Any, folder: Path, images: torch.Tensor, capsys: pytest.CaptureFixture[str]
) -> None:
    other = fresh(folder)
    for side in (other.model.encoder, other.model.decoder):
        side.module_dict["more"] = torch.nn.Identity()
    capsys.readouterr()
    other = FlexTokCodec("other", "r", other.model)
    tokens = other.encode(images)
    assert np.array_equal(tokens, codec.encode(images))
    prefixes, seeds = [tokens[0], tokens[1][:3], tokens[2][:9]], [1, 2, 3]
    assert apart(*(c.decode(prefixes, seeds, 1, 2.0) for c in (codec, other))) <= 1
    said = capsys.readouterr().out
    for part in ("FastEncoder", "FastDecoder"):
        fault = f"{part} does not cover other (a module of type Identity): the package's own calls"
        assert said.count(fault) == 1


@needs_flextok
def test_the_last_batch_is_padded_where_shapes_are_compiled(
    folder: Path, images: torch.Tensor
) -> None:
    codec = fresh(folder)
    tokens = codec.encode(images)
    decoded = codec.decode(tokens, [1, 2, 3], 1, 2.0)
    codec.cuda = True  # pads; the device is still the CPU
    shapes: list[int] = []
    inner = codec.encoder.tokens

    def watched(batch: torch.Tensor) -> torch.Tensor:
        shapes.append(len(batch))
        return inner(batch)

    codec.encoder.tokens = watched
    assert np.array_equal(codec.encode(images), tokens)
    assert np.array_equal(codec.encode(images[:1]), tokens[:1])
    assert shapes == [3, 3]
    assert apart(codec.decode(tokens[:2], [1, 2], 1, 2.0), decoded[:2]) <= 1


@needs_flextok
def test_an_image_that_overflows_is_tokenized_again_in_float32(
    codec: Any, images: torch.Tensor
) -> None:
    tokens, encoder = codec.encode(images), codec.encoder

    def overflows(batch: torch.Tensor) -> torch.Tensor:
        out = encoder.tokens(batch)
        out[1] = SEPARATOR
        return out

    codec.encoder = SimpleNamespace(tokens=overflows)
    # float32: nothing better is at hand, and no folder takes it
    assert (codec.encode(images)[1] == SEPARATOR).all()
    codec.precision = "float16"
    assert np.array_equal(codec.encode(images), tokens)
    codec.precision, codec.encoder = "float32", encoder


def test_out_of_memory_is_answered_with_the_batch_size_to_use() -> None:
    said = "out of memory with a batch of 64: try --batch-size 32"
    of_cpu = RuntimeError("DefaultCPUAllocator: can't allocate memory")
    for error in (torch.OutOfMemoryError("CUDA"), of_cpu):
        expected = pytest.raises(UserError, match=said)
        with expected, oom_as_user_error(64, "try --batch-size {}"):
            raise error
    with pytest.raises(RuntimeError, match="something else"), oom_as_user_error(64, "{}"):
        raise RuntimeError("something else")


@needs_flextok
def test_a_model_out_of_memory_ends_in_that_line(
    codec: Any, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(codec.encoder, "tokens", full)
    monkeypatch.setattr(codec.decoder, "images", full)
    with pytest.raises(UserError, match="batch of 3: try --batch-size 1"):
        codec.encode(images)
    said = "out of memory with a batch of 1: use a GPU with more memory"
    with pytest.raises(UserError, match=said):
        codec.decode([np.zeros(4, np.uint16)] * 2, [0, 1], 1, 2.0)


@needs_flextok
def test_a_decoder_out_of_memory_takes_smaller_batches(
    codec: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = np.random.default_rng(0).integers(0, codec.vocab_size, (5, 4)).astype(np.uint16)
    right = codec.decode(rows, range(5), 1, 2.0)
    images = codec.decoder.images

    def small(ids: torch.Tensor, *rest: object) -> torch.Tensor:
        if len(ids) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return images(ids, *rest)

    monkeypatch.setattr(codec.decoder, "images", small)
    assert apart(codec.decode(rows, range(5), 1, 2.0), right) <= 1


def test_every_process_of_torchrun_has_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert choose_device() == torch.device("cuda", 0)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert choose_device() == torch.device("cuda", 3)
    assert chosen == [torch.device("cuda", 0), torch.device("cuda", 3)]


@pytest.mark.parametrize(
    ("name", "revision", "asked"),
    [(ZOO[0], "", None), (f"{ZOO[0]}@v1", "x", "v1"), (ZOO[0], "abc", "abc")],
)
def test_a_revision_of_the_hub_is_pinned_and_recorded(
    name: str, revision: str, asked: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = tmp_path / "87d00cc"  # the hub's cache names the folder by the commit
    snapshot.mkdir()
    (snapshot / "config.json").write_text("{}")
    (snapshot / "model.safetensors").write_bytes(b"")
    seen: list[object] = []

    def download(repository: str, revision: str | None) -> str:
        seen.append((repository, revision))
        return str(snapshot)

    package = SimpleNamespace(FlexTokFromHub=SimpleNamespace(from_pretrained=lambda folder: folder))
    monkeypatch.setitem(sys.modules, "flextok", SimpleNamespace(flextok_wrapper=package))
    monkeypatch.setitem(sys.modules, "flextok.flextok_wrapper", package)
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    monkeypatch.setattr(flextok_codec, "FlexTokCodec", lambda *made: made)
    assert flextok_codec.load(name, revision) == (ZOO[0], "87d00cc", snapshot)
    assert seen == [(ZOO[0], asked)]
    (snapshot / "model.safetensors").unlink()
    with pytest.raises(UserError, match="holds no FlexTok"):
        flextok_codec.load(name, revision)


def test_without_the_package_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flextok.flextok_wrapper", None)
    remedy = r"pip install -r requirements-flextok\.txt, or use --codec tiny"
    with pytest.raises(UserError, match=remedy):
        load_codec("EPFL-VILAB/flextok_d18_d28_dfn")


@pytest.mark.parametrize("name", ["flextok", "/no/such/folder", "a/b/c"])
def test_unknown_codecs_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="unknown codec"):
        load_codec(name)


@needs_flextok
@pytest.mark.parametrize("name", [*ZOO, f"{ZOO[0]}@v1"])
def test_without_the_hub_one_line_says_so(name: str) -> None:
    with pytest.raises(UserError, match="cannot reach the Hugging Face hub"):
        load_codec(name)
