"""The training of the embedded tokenizer: what its losses see, and that a run cut off anywhere ends the same."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

import train_tiny_flextok as script
from imagegram.cli import run_script
from imagegram.codec.tiny_flextok import Decoder, TinyFlexTok
from imagegram.measure.classifier import Judge
from imagegram.training import losses as t


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_crowding_is_the_log_of_the_mean_potential_of_pairs() -> None:
    z = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(1))
    for token in range(2):
        points = z[:, token].tanh()
        pairs = [(points[i] - points[j]).square().sum() for i in range(5) for j in range(5) if i != j]
        expected = torch.stack([(-4 * d).exp() for d in pairs]).mean().log()
        assert torch.allclose(t.crowding(z)[token], expected)


def test_the_regression_sees_the_kept_codes_alone() -> None:
    torch.manual_seed(0)
    regression = t.Regression(16 * 3)
    codes = torch.rand(2, 16, 3)
    other = codes.clone()
    other[:, 4:] += 0.5
    for same, keep in ((True, 4), (False, 5)):
        both = zip(*(regression(x, torch.tensor([keep, keep])) for x in (codes, other)), strict=True)
        assert all(torch.equal(a, b) is same for a, b in both)


def test_teacher_features_are_standardised(images: Tensor) -> None:
    torch.manual_seed(0)
    teacher = t.Teacher(3)
    teacher.standardise(images)
    maps, whole = teacher(images)
    assert maps.shape == (6, 128, 8, 8)
    assert whole.shape == (6, 256)
    assert maps.mean((0, 2, 3)).abs().max() < 0.1  # clamped at 4 deviations
    assert whole.mean(0).abs().max() < 0.1
    assert 0.5 < whole.std() < 1.2


def test_the_encoder_learns_in_its_stage_and_only_there(images: Tensor) -> None:
    torch.manual_seed(0)
    model, regression, teacher = TinyFlexTok(), t.Regression(48), t.Teacher(3)
    rng = torch.Generator().manual_seed(0)
    losses = t.encoder_losses(model, regression, teacher, images, 3, rng)
    assert set(losses) == {"pixels", "features", "spread"}
    for value in losses.values():
        model.zero_grad()
        value.backward(retain_graph=True)
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.encoder.parameters())
    assert all(p.grad is None for p in (*model.decoder.parameters(), *teacher.parameters()))
    model.zero_grad()
    alignment = t.Alignment(128)
    values = t.decoder_losses(model, alignment, teacher, images, 0.1, 0.7, rng)
    values["alignment"].backward(retain_graph=True)
    assert all(p.grad is not None for p in (*alignment.parameters(), *model.decoder.blocks[1].parameters()))
    assert all(p.grad is None for p in model.decoder.blocks[2].parameters())
    values["flow"].backward()
    assert all(p.grad is None for p in (*model.encoder.parameters(), *teacher.parameters()))
    assert model.decoder.pixels[-1].weight.grad.abs().max() > 0  # type: ignore[union-attr,operator]


def test_flow_matching_is_exact_for_a_decoder_that_knows(images: Tensor) -> None:
    """A decoder that finds the noise from the mixture and the image has no loss."""
    model = TinyFlexTok().eval()

    class Oracle(Decoder):
        def forward(self, noised: Tensor, time: Tensor, codes: Tensor, keep: Tensor) -> Tensor:
            super().forward(noised, time, codes, keep)
            assert codes.shape == (6, 16, 3)
            assert ((keep >= 0) & (keep <= 16)).all()
            return (noised - images) / time[:, None, None, None]  # noise - image

    model.decoder = Oracle(model.config)
    rng = torch.Generator().manual_seed(3)
    assert t.decoder_losses(model, t.Alignment(128), t.Teacher(3), images, 0.1, 0.7, rng)["flow"] < 1e-6


class Interrupted(Exception):
    pass


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """The script on few images, with judges hardly trained."""
    few, train_judge, load_images = 60, script.train_judge, script.load_images

    def judge(images: Tensor, labels: Tensor, steps: int, seed: int = 0) -> Judge:
        return train_judge(images, labels, 2, batch=8, seed=seed)

    def load(config: script.Config) -> dict[str, script.Data]:
        data = load_images(config)
        return {name: (x[:few], y[:few], out[:few]) for name, (x, y, out) in data.items()}

    monkeypatch.setattr(script, "train_judge", judge)
    monkeypatch.setattr(script, "load_images", load)
    monkeypatch.setattr(script, "KEEPS", (1, 16))
    monkeypatch.setattr(t, "SAVE_EVERY", 2)
    monkeypatch.setattr(t, "WARMUP", 2)


@pytest.mark.usefixtures("hasty")
def test_a_training_that_was_cut_off_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    def run(name: str) -> Path:
        places = [f"--{key}={tmp_path / name / key}" for key in ("out", "card")]
        weights = tmp_path / name / "weights.safetensors"
        counts = (
            "--encoder-steps=5",
            "--decoder-steps=4",
            "--digits-per-step=3",
            "--scenes-per-step=3",
            "--scenes=60",
        )
        arguments = [*places, f"--weights={weights}", *counts, "--eval-every=100"]
        assert run_script(script.main, script.Config, script.__doc__, arguments) == 0
        return weights

    whole, saved = run("whole"), torch.save
    for stage, step in (("encoder", 4), ("decoder", 2)):

        def save(state: dict[str, object], path: Path, stage: str = stage, step: int = step) -> None:
            saved(state, path)
            if path.name.endswith(f"-{stage}.pt") and state["step"] == step:
                path.replace(path.with_name(f"{stage}.pt"))
                raise Interrupted

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch, "save", save)
            with pytest.raises(Interrupted):
                run("cut")
    one, other = (TinyFlexTok.load(path).state_dict() for path in (run("cut"), whole))
    assert all(torch.equal(one[key], other[key]) for key in one)
    for stage in ("encoder", "decoder"):
        logs = [(tmp_path / name / "out" / f"{stage}.jsonl").read_text() for name in ("whole", "cut")]
        assert logs[0] == logs[1]
    assert (tmp_path / "cut/card/tiny_flextok_reconstructions.png").exists()
    assert set(json.loads((tmp_path / "cut/card/tiny_flextok.json").read_text())) == {"digits", "shapes"}
