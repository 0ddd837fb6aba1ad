"""The losses that train the embedded tokenizer: what they see, and whom they teach."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from imagegram.codec.tiny_flextok import Decoder, TinyFlexTok
from training import losses as t
from training.teacher import Teacher


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_crowding_is_the_log_of_the_mean_potential_of_pairs() -> None:
    z = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(1))
    for token in range(2):
        points = z[:, token].tanh()
        pairs = [(a - b).square().sum() for a, b in itertools.permutations(points, 2)]
        expected = torch.stack([(-4 * d).exp() for d in pairs]).mean().log()
        assert torch.allclose(t.crowding(z)[token], expected)


def test_the_regression_sees_the_kept_codes_alone() -> None:
    torch.manual_seed(0)
    regression = t.Regression(16 * 3, 32)
    codes = torch.rand(2, 16, 3)
    other = codes.clone()
    other[:, 4:] += 0.5
    for same, keep in ((True, 4), (False, 5)):
        seen = torch.tensor([keep, keep])
        for a, b in zip(regression(codes, seen), regression(other, seen), strict=True):
            assert torch.equal(a, b) is same


def test_teacher_features_are_standardised(images: Tensor) -> None:
    torch.manual_seed(0)
    teacher = Teacher(3)
    teacher.standardise(images)
    maps, whole = teacher(images)
    assert maps.shape == (6, 128, 8, 8)
    assert whole.shape == (6, 256)
    assert maps.mean((0, 2, 3)).abs().max() < 0.1  # clamped at 4 deviations
    assert whole.mean(0).abs().max() < 0.1
    assert 0.5 < whole.std() < 1.2


def learns(module: nn.Module) -> set[bool]:
    """Whether weights have gradients, which are finite: of some or of all."""
    grads = [p.grad for p in module.parameters()]
    return {grad is not None and bool(grad.isfinite().all()) for grad in grads}


def test_the_encoder_learns_in_its_stage_and_only_there(images: Tensor) -> None:
    torch.manual_seed(0)
    model, regression, teacher = TinyFlexTok(), t.Regression(48, 32), Teacher(3)
    rng = torch.Generator().manual_seed(0)
    losses = t.encoder_losses(model, regression, teacher, images, [3, 3], rng)
    assert set(losses) == {"pixels", "features", "spread"}
    for value in losses.values():
        model.zero_grad()
        value.backward(retain_graph=True)
        assert learns(model.encoder) == {True}
    assert learns(model.decoder) == learns(teacher) == {False}
    model.zero_grad()
    alignment = t.Alignment(128)
    values = t.decoder_losses(model, alignment, teacher, images, rng)
    values["alignment"].backward(retain_graph=True)
    assert learns(alignment) == learns(model.decoder.blocks[1]) == {True}
    assert learns(model.decoder.blocks[2]) == {False}
    values["flow"].backward()
    assert learns(model.encoder) == learns(teacher) == {False}
    assert model.decoder.pixels[-1].weight.grad.abs().max() > 0  # type: ignore[union-attr,operator]


def test_flow_matching_is_exact_for_a_decoder_that_knows(images: Tensor) -> None:
    """A decoder that finds the noise from the mixture and the image has no loss."""
    model = TinyFlexTok().eval()

    class Oracle(Decoder):
        def forward(
            self, noised: Tensor, time: Tensor, codes: Tensor, keep: Tensor, seen: Any = None
        ) -> Tensor:
            super().forward(noised, time, codes, keep, seen)
            assert codes.shape == (6, 16, 3)
            assert ((keep >= 0) & (keep <= 16)).all()
            return (noised - images) / time[:, None, None, None]  # noise - image

    model.decoder = Oracle(model.config)
    rng = torch.Generator().manual_seed(3)
    assert t.decoder_losses(model, t.Alignment(128), Teacher(3), images, rng)["flow"] < 1e-6
