"""The dense path against the package's own calls; and each part broken on purpose, to see that this
is noticed."""

import functools
import importlib.util
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from imagegram.tokens import SEPARATOR
from tests.support.images import scenes
from tests.support.random_flextok import Shape, save_random_flextok, stock_on_cpu

if importlib.util.find_spec("flextok") is None:
    pytest.skip(
        "the flextok package is not installed (requirements-flextok.txt)", allow_module_level=True
    )

from flextok.flextok_wrapper import FlexTokFromHub

from imagegram.codec import flextok_dense
from imagegram.codec.flextok_blocks import Chain, Unsupported, log_weights
from imagegram.codec.flextok_dense import FastDecoder, FastEncoder

STEPS = 2
PREFIXES = ([256, 256], [1, 1], [64, 64], [200, 5], [7, 8], [256, 1])
SHAPES = Shape(), Shape((128, 1), (64, 3), tokens=128, expansion=1, checkpoint=True)


@pytest.fixture(scope="module", params=SHAPES, ids=["full-length", "other-options"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = save_random_flextok(tmp_path_factory.mktemp("flextok"), request.param)
    return stock_on_cpu(FlexTokFromHub.from_pretrained(folder)).eval()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return scenes(2, size=256)


@pytest.fixture(scope="module")
def tokens(model: Any, images: torch.Tensor) -> torch.Tensor:
    """Of the package's own call, [2, L]."""
    with torch.inference_mode():
        # torchvision's ToTensor and Normalize
        return torch.cat(model.tokenize((images / 255 - 0.5) / 0.5))


def noise(seeds: tuple[int, ...] = (0, 1)) -> torch.Tensor:
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return torch.stack([torch.randn(16, 32, 32, generator=g) for g in generators])


@torch.inference_mode()
def stock_images(model: Any, tokens: torch.Tensor, kept: list[int], scale: float) -> torch.Tensor:
    prefixes = [row[None, :k] for row, k in zip(tokens, kept, strict=True)]
    data = model._prepare_data_dict_for_detokenization(prefixes)
    model.pipeline.noise_read_key = "noise"
    data["noise"] = list(noise().split(1))
    options = {"guidance_scale": scale, "perform_norm_guidance": True}
    data = model.decode(data, timesteps=STEPS, vae_image_sizes=32, verbose=False, **options)
    return torch.cat(list(data[model.image_write_key]))


def test_tokens_are_identical(model: Any, images: torch.Tensor, tokens: torch.Tensor) -> None:
    assert torch.equal(FastEncoder(model).tokens(images), tokens)
    # no constant tokens: the comparison means something
    assert (tokens[0] != tokens[1]).float().mean() > 0.25


@pytest.mark.parametrize("scale", [1.0, 7.5])
def test_images_agree_for_every_prefix(model: Any, tokens: torch.Tensor, scale: float) -> None:
    decoder, length = FastDecoder(model), tokens.shape[1]
    for prefixes in PREFIXES:
        kept = [min(k, length) for k in prefixes]
        decoded = decoder.images(tokens, kept, noise(), STEPS, scale)
        assert (decoded - stock_images(model, tokens, kept, scale)).abs().max() < 1e-4, kept


def test_prefixes_and_guidance_matter(model: Any, tokens: torch.Tensor) -> None:
    """Else the comparison above would compare nothing."""
    both = [tokens.shape[1]] * 2
    whole = stock_images(model, tokens, both, 7.5)
    for kept, scale in (([1, 8], 7.5), (both, 1.0)):
        other = stock_images(model, tokens, kept, scale)
        assert (whole - other).flatten(1).abs().amax(1).min() > 0.01


def test_an_image_does_not_depend_on_its_batch(model: Any, tokens: torch.Tensor) -> None:
    decoder = FastDecoder(model)
    together = decoder.images(tokens, [3, 9], noise(), STEPS, 3.0)
    alone = decoder.images(tokens[1:], [9], noise((1,)), STEPS, 3.0)
    assert (together[1] - alone[0]).abs().max() < 1e-4


def without_weights(length: int, rows: int, kept: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(log_weights(length, rows, kept))


def first_step_only(self: FastDecoder, timesteps: int, schedule: Any = FastDecoder.schedule) -> Any:
    return tuple(part[:1].expand_as(part) for part in schedule(self, timesteps))


def without_momentum(
    *args: Any, guidance: Any = flextok_dense.normalized_guidance, **options: Any
) -> torch.Tensor:
    return guidance(*args[:3], None, **options)


def norms_of_patches(
    self: FastDecoder, step: torch.Tensor, patches: int, registers: int
) -> torch.Tensor:
    return step[0][:, None, None]


@pytest.mark.parametrize(
    ("owner", "name", "broken"),
    [
        pytest.param(flextok_dense, "log_weights", without_weights, id="weights"),
        pytest.param(FastDecoder, "schedule", first_step_only, id="schedule"),
        pytest.param(FastDecoder, "_spread", norms_of_patches, id="adaptive-norms"),
        pytest.param(flextok_dense, "normalized_guidance", without_momentum, id="guidance"),
    ],
)
def test_a_broken_decoder_is_noticed(
    model: Any, tokens: torch.Tensor, owner: Any, name: str, broken: Any, monkeypatch: Any
) -> None:
    if name == "_spread" and FastDecoder(model).expansion == 1:
        pytest.skip("this model has the same norms for patches and registers")
    expected = stock_images(model, tokens, [5, 7], 7.5)
    monkeypatch.setattr(owner, name, broken)
    decoded = FastDecoder(model).images(tokens, [5, 7], noise(), STEPS, 7.5)
    assert (decoded - expected).abs().max() > 1e-3


def later_registers_too(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, prefix: int, last: bool
) -> torch.Tensor:
    out = F.scaled_dot_product_attention(q, k, v, scale=scale)
    return out[:, :, prefix:] if last else out


def no_positions(
    self: Chain, key: str, positions: Any = Chain.positions
) -> tuple[torch.Tensor, int]:
    table, place = positions(self, key)
    return torch.zeros_like(table), place


@pytest.mark.parametrize(
    ("place", "broken"),
    [
        ((flextok_dense, "prefix_causal"), later_registers_too),
        ((Chain, "positions"), no_positions),
        ((F, "silu"), F.relu),
    ],
    ids=["mask", "positions", "activation"],
)
def test_a_broken_encoder_is_noticed(
    model: Any,
    images: torch.Tensor,
    tokens: torch.Tensor,
    place: Any,
    broken: Any,
    monkeypatch: Any,
) -> None:
    monkeypatch.setattr(*place, broken)
    assert (FastEncoder(model).tokens(images) != tokens).float().mean() > 0.1


def test_half_precision_flips_few_tokens_and_moves_images_little(
    model: Any, images: torch.Tensor, tokens: torch.Tensor
) -> None:
    lower = FastEncoder(model, torch.float16).tokens(images)
    # measured on random weights: 0 to 3 %, by the processor
    assert (lower != tokens).float().mean() < 0.1
    length = tokens.shape[1]
    decoded = FastDecoder(model, torch.bfloat16).images(tokens, [length, 3], noise(), STEPS, 3.0)
    assert (decoded - stock_images(model, tokens, [length, 3], 3.0)).abs().mean() < 0.05


def test_an_image_that_overflows_is_marked(model: Any, images: torch.Tensor) -> None:
    encoder = FastEncoder(model, torch.float16)
    with torch.no_grad():  # black stays finite, white overflows float16
        first = next(m for m in encoder.vae.modules() if isinstance(m, torch.nn.Conv2d))
        first.weight.fill_(2000)
        first.get_parameter("bias").fill_(20_000)
    white = torch.full_like(images[:1], 255)
    tokens = encoder.tokens(torch.cat([white, torch.zeros_like(white)]))
    assert (tokens[0] == SEPARATOR).all()
    assert (tokens[1] < SEPARATOR).all()


def test_what_is_compiled_is_a_single_graph(
    model: Any, images: torch.Tensor, tokens: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No break and no data-dependent step: fullgraph raises on one. Compiled for real only where
    there is a GPU."""
    traced = functools.partial(torch.compile, backend="eager", fullgraph=True)
    monkeypatch.setattr(torch, "compile", traced)
    monkeypatch.setattr("builtins.print", lambda *words: pytest.fail(f"not compiled: {words}"))
    assert torch.equal(FastEncoder(model, compiled=True).tokens(images), tokens)
    decoder = FastDecoder(model, compiled=True)
    decoded = decoder.images(tokens, [3, 4], noise(), STEPS, 7.5)
    assert (decoded - stock_images(model, tokens, [3, 4], 7.5)).abs().max() < 1e-4


def test_without_a_compiler_it_runs_uncompiled(
    model: Any, images: torch.Tensor, tokens: torch.Tensor, monkeypatch: Any, capsys: Any
) -> None:
    def compiled(*args: object) -> None:
        raise RuntimeError("no Triton\nhere")

    monkeypatch.setattr(torch, "compile", lambda f, dynamic: compiled)
    assert torch.equal(FastEncoder(model, compiled=True).tokens(images), tokens)
    assert "not compiled, which is slower: no Triton\n" in capsys.readouterr().out


def test_other_layouts_are_refused(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, decoder = model.encoder.module_dict, model.decoder.module_dict
    block = encoder["enc_transformer"].blocks[0]
    attention = getattr(block, "_checkpoint_wrapped_module", block).attn
    biased = {**attention._modules, "wq": torch.nn.Linear(8, 8)}
    extended = {**encoder._modules, "more": torch.nn.Identity()}
    # positions added after the dropped registers are written: these are not equal
    order = list(decoder._modules)
    order.insert(order.index("dec_null") + 1, order.pop(order.index("dec_positions")))
    reordered = {name: decoder._modules[name] for name in order}
    trunk, registers = encoder["enc_transformer"], encoder["enc_register_module"]
    of_encoder: list[tuple[Any, str, Any, str]] = [
        (encoder["enc_seq_packer"], "mask_mode", "causal", "another attention mask"),
        (trunk, "rope_forward_read_key", "rope", "rotary positions"),
        (registers, "ordering_mode", "avg_pool", "other registers"),
        (attention, "_modules", biased, "a bias in a block"),
        (encoder, "_modules", extended, "a module of type Identity"),
    ]
    null, packer = decoder["dec_null"], decoder["dec_seq_packer"]
    of_decoder: list[tuple[Any, str, Any, str]] = [
        (null, "replace_with_single_token", True, "a single null token"),
        (decoder["dec_positions"], "read_key", "else", "0 positional embeddings"),
        (packer, "input_list_read_keys", ["dec_codes"], "another attention mask"),
        (decoder, "_modules", reordered, "positions of dropped registers"),
    ]
    for half, faults in ((FastEncoder, of_encoder), (FastDecoder, of_decoder)):
        for owner, attribute, value, message in faults:
            with monkeypatch.context() as patch:
                patch.setattr(owner, attribute, value)
                with pytest.raises(Unsupported, match=message):
                    half(model)
    FastEncoder(model)
    FastDecoder(model)
