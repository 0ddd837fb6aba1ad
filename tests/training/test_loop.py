"""The training loop and the script: a run that was cut off anywhere ends the same."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

import train_tiny_flextok as script
from imagegram.cli import run_script
from imagegram.codec.tiny_flextok import TinyFlexTok
from imagegram.measure.classifier import Judge
from imagegram.training import loop


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
    monkeypatch.setattr(loop, "SAVE_EVERY", 2)
    monkeypatch.setattr(loop, "WARMUP", 2)


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
