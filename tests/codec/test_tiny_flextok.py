"""The miniature keeps FlexTok's promises: ordered registers, prefixes that decode, guidance,
reproducible noise."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from imagegram.codec import load_codec
from imagegram.codec.miniatures import SHIPPED, WEIGHTS, shipped
from imagegram.codec.tiny_flextok import FSQ, QuickLinear, TinyConfig, TinyFlexTok
from imagegram.data.dataset import held_out
from imagegram.data.preprocess import preprocess
from imagegram.data.spec import DatasetSpec
from imagegram.machine import has_bfloat16
from tests.support.images import scenes


@pytest.fixture(scope="module")
def model() -> TinyFlexTok:
    """Random weights everywhere, also where training starts from zero."""
    torch.manual_seed(0)
    model = TinyFlexTok(TinyConfig(width=32, heads=2, encoder_depth=2, decoder_depth=2)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.2)
    return model


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1


def noise(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def test_fsq_ids_are_mixed_radix_digits_of_neighbouring_codes() -> None:
    fsq = FSQ((8, 5, 3))
    ids = torch.arange(120)
    codes = fsq.to_codes(ids)
    assert (fsq.to_tokens(codes) == ids).all()
    assert len(codes.unique(dim=0)) == 120
    assert codes.abs().max() <= 1
    digits = np.stack([ids % 8, ids // 8 % 5, ids // 40], 1)
    assert np.allclose(np.diff(codes[:8, 0]), 0.25)
    assert np.array_equal(np.unique(digits[:, 2]), [0, 1, 2])
    z = torch.linspace(-6, 6, 4001)[:, None].expand(-1, 3)
    quantized = fsq(z)
    # every level is reached, none besides
    assert [len(quantized[:, d].unique()) for d in range(3)] == [8, 5, 3]
    assert (quantized.diff(dim=0) >= 0).all()


def test_the_quantizer_passes_the_gradient_straight_through() -> None:
    z = torch.tensor([[0.1, -0.3, 0.2]], requires_grad=True)
    FSQ((8, 8, 8))(z).sum().backward()
    assert z.grad is not None
    assert (z.grad > 0.1).all()


def test_a_register_sees_the_patches_and_the_registers_before_it(
    model: TinyFlexTok, images: Tensor
) -> None:
    with torch.no_grad():
        before = model.encoder(images)
        model.encoder.registers[9] += 1
        after = model.encoder(images)
        model.encoder.registers[9] -= 1
        darker = model.encoder(images * torch.ones(32).index_fill(0, torch.tensor([31]), 0.5))
    assert torch.equal(before[:, :9], after[:, :9])
    assert all((before[:, i] != after[:, i]).any() for i in range(9, 16))
    assert all((before[:, i] != darker[:, i]).any() for i in range(16))


def test_tokenize_returns_what_flextok_returns(model: TinyFlexTok, images: Tensor) -> None:
    tokens = model.tokenize(images)
    assert [t.shape for t in tokens] == [(1, 16)] * 5
    assert all(t.dtype == torch.int64 and t.min() >= 0 and t.max() < 512 for t in tokens)
    assert torch.equal(torch.cat(tokens[2:3]), torch.cat(model.tokenize(images[2:3])))


def test_only_the_prefix_matters(model: TinyFlexTok) -> None:
    full = torch.randint(512, (1, 16), generator=torch.Generator().manual_seed(2))
    other = full.clone()
    other[:, 5:] = (other[:, 5:] + 1) % 512
    five, six = (
        model.detokenize([full[:, :k], other[:, :k]], 2, generator=noise(3, 3)) for k in (5, 6)
    )
    assert torch.allclose(*five)
    assert (six[0] - six[1]).abs().max() > 1e-3
    one_for_all = model.detokenize([full], 2, generator=noise(3)[0])
    assert torch.equal(one_for_all, model.detokenize([full], 2, generator=noise(3)))


def test_guidance_of_one_is_none_and_more_moves_away_from_the_unconditional(
    model: TinyFlexTok,
) -> None:
    tokens = list(torch.randint(512, (2, 16), generator=torch.Generator().manual_seed(5)).split(1))
    codes = model.fsq.to_codes(torch.cat(tokens))
    time = torch.ones(2)
    start = torch.stack([torch.randn(3, 32, 32, generator=g) for g in noise(6, 6)])
    with torch.inference_mode():
        conditional = model.decoder(start, time, codes, torch.tensor([16, 16]))
        unconditional = model.decoder(start, time, codes, torch.tensor([0, 0]))
    for scale in (1.0, 3.0):
        expected = start - (unconditional + scale * (conditional - unconditional))
        decoded = model.detokenize(tokens, 1, scale, generator=noise(6, 6))
        assert torch.allclose(decoded, expected, atol=1e-4)


def test_weights_survive_saving(tmp_path: Path, model: TinyFlexTok, images: Tensor) -> None:
    model.save(tmp_path / "a.safetensors")
    once = TinyFlexTok.load(tmp_path / "a.safetensors")
    once.save(tmp_path / "b.safetensors")
    twice = TinyFlexTok.load(tmp_path / "b.safetensors")
    assert once.config == model.config
    assert torch.equal(torch.cat(once.tokenize(images)), torch.cat(twice.tokenize(images)))


def test_shipped_weights_rebuild_held_out_digits_better_with_more_tokens() -> None:
    assert all((SHIPPED / name / WEIGHTS).stat().st_size <= 4e6 for name in shipped())
    codec, digits = load_codec("tiny"), DatasetSpec("digits").open()
    rows = np.flatnonzero(held_out(np.arange(len(digits)), 0.1))[:32]
    images = torch.stack([preprocess(digits.read(int(i))[0], codec.image_size) for i in rows])
    tokens = codec.encode(images)
    assert (tokens.shape, tokens.dtype) == ((32, 16), np.uint16)

    def error(rows: NDArray[np.uint16]) -> float:
        decoded = codec.decode(rows, range(32), 4, codec.guidance_scale)
        assert decoded.dtype == torch.uint8
        return (decoded.float() - images.float()).square().mean().item()

    all_tokens, four, one = (error(tokens[:, :k]) for k in (16, 4, 1))
    chance = error(np.roll(tokens, 1, 0))
    assert all_tokens < four < one < 0.8 * chance
    assert all_tokens < 0.15 * chance


def test_an_image_of_the_codec_is_the_same_to_the_byte_whatever_it_is_decoded_with() -> None:
    codec = load_codec("tiny")
    rng = np.random.default_rng(0)
    lengths = (16, 4, 1, 16, 7, 16, 16, 2, 16, 16, 3)
    rows = [rng.integers(0, 512, k).astype(np.uint16) for k in lengths]
    together = codec.decode(rows, range(11), 2, 2.5)
    assert (together.shape, together.dtype) == ((11, 3, 32, 32), torch.uint8)
    for i in (0, 4, 10):
        assert torch.equal(codec.decode([rows[i]], [i], 2, 2.5)[0], together[i])
    assert torch.equal(codec.decode(rows[::-1], range(10, -1, -1), 2, 2.5).flip(0), together)


def test_images_that_are_tokenized_a_few_at_a_time_have_the_tokens_of_the_network() -> None:
    codec = load_codec("tiny")
    images = scenes(70, seed=1)
    tokens = codec.encode(images)
    assert (tokens.shape, tokens.dtype) == ((70, 16), np.uint16)
    network = TinyFlexTok.load(SHIPPED / "tiny" / WEIGHTS)
    assert np.array_equal(tokens, torch.cat(network.tokenize(images / 127.5 - 1)).numpy())


def test_a_linear_layer_without_gradients_is_the_same_layer() -> None:
    torch.manual_seed(0)
    layer, x = QuickLinear(24, 40), torch.randn(3, 80, 24)
    expected = x @ layer.weight.T + layer.bias
    with torch.inference_mode():
        quick = layer(x)
    for found in (quick, layer(x)):
        assert found.shape == expected.shape
        assert torch.allclose(found, expected, atol=1e-5)


def test_decoding_leaves_the_number_of_threads_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    codec = load_codec("tiny")
    rows = np.arange(20, dtype=np.uint16)[:, None].repeat(16, 1)
    alone = codec.decode(rows, range(20), 1, 2.5)
    monkeypatch.setattr("imagegram.machine.cores", lambda: 3)
    torch.set_num_threads(3)
    try:
        together = codec.decode(rows, range(20), 1, 2.5)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(1)
    assert torch.equal(together, alone)


@pytest.mark.skipif(not has_bfloat16(), reason="this processor has no bfloat16")
def test_bfloat16_hardly_changes_a_picture_and_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    codec = load_codec("tiny")
    images = scenes(4, seed=1)
    tokens = codec.encode(images)
    pictures = codec.decode(tokens, range(4), 10, 2.5).int()
    monkeypatch.setattr("imagegram.codec.tiny.has_bfloat16", lambda: False)
    exact = codec.decode(tokens, range(4), 10, 2.5).int()
    assert 0 < (pictures - exact).abs().double().mean() < 1  # grey levels of 255
    assert np.array_equal(codec.encode(images), tokens)
