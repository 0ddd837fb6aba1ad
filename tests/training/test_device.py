"""A training as it would run on a GPU, where none is: on tensors without values, and compiled in
half precision."""

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from imagegram.codec.tiny_flextok import TinyFlexTok
from tests.support.tensors import replace_tensors
from training import loop
from training import losses as t
from training.images import Images
from training.loop import Stage, fit
from training.teacher import Teacher
from training.tokenizer import Batches, compile_blocks

GPU = torch.device("cuda")


# of tensors without values, and that autocast has no GPU here
@pytest.mark.filterwarnings("ignore")
def test_a_step_keeps_to_the_gpu_and_never_waits_for_it() -> None:
    """On these tensors an operation whose inputs lie on two devices fails, and so does one that
    needs a value. (The way back through the network and the optimizers need a real GPU.)"""
    with FakeTensorMode():
        model = TinyFlexTok()
        regression = t.Regression(48, 32)
        alignment = t.Alignment(128)
        teacher = Teacher(3).eval()
        for module in (model, regression, alignment, teacher):
            replace_tensors(module, lambda x: x.to(GPU))
        data = SimpleNamespace(training=torch.zeros(30, 3, 32, 32, dtype=torch.uint8))
        batches = Batches([cast("Images", data)], GPU)
        rng = torch.Generator()
        with torch.autocast("cuda", torch.bfloat16):
            images = batches.draw(rng)
            found = [
                t.encoder_losses(model, regression, teacher, images, batches.counts, rng),
                t.decoder_losses(model, alignment, teacher, images, rng),
            ]
        for values in found:
            for loss in values.values():
                assert (loss.device.type, loss.dtype) == ("cuda", torch.float32)


def test_compiled_blocks_in_half_precision_learn_the_same_and_go_on_from_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a GPU adds, on the CPU: compiling (the tracing, not the code that comes of it) and
    bfloat16."""
    monkeypatch.setattr(loop, "SAVE_EVERY", 2)
    monkeypatch.setattr(loop, "SHOW_EVERY", 1)
    images = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1

    def run(name: str, steps: int, fast: bool) -> tuple[dict[str, Tensor], list[str]]:
        (tmp_path / name).mkdir(exist_ok=True)
        monkeypatch.setattr(loop, "has_bfloat16", lambda: fast)
        torch.manual_seed(0)
        model = TinyFlexTok()
        alignment = t.Alignment(128)
        teacher = Teacher(3).eval()
        if fast:
            compile_blocks(model, "eager")

        def losses(rng: torch.Generator) -> loop.Losses:
            return t.decoder_losses(model, alignment, teacher, images, rng)

        stage = Stage("decoder", steps, 6, 1, t.DECODER_WEIGHTS)
        fit(stage, nn.ModuleList([model.decoder, alignment]), losses, tmp_path / name)
        model.save(tmp_path / name / "weights")
        return model.state_dict(), (tmp_path / name / "decoder.jsonl").read_text().splitlines()

    plain, slow = run("plain", 4, False)
    compiled, quick = run("compiled", 4, True)
    assert plain.keys() == compiled.keys()
    for name, weights in plain.items():
        assert torch.allclose(weights, compiled[name], atol=0.01), name
    assert slow != quick  # half precision was in use
    sizes = {(tmp_path / name / "weights").stat().st_size for name in ("plain", "compiled")}
    assert len(sizes) == 1
    run("compiled", 6, True)  # goes on from step 4
    assert len((tmp_path / "compiled" / "decoder.jsonl").read_text().splitlines()) == 6
