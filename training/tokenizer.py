"""The training of the embedded tokenizer: first its encoder, then its decoder on the finished
encoder's tokens."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from imagegram.codec.tiny_flextok import TinyFlexTok
from imagegram.data.preprocess import to_signed
from imagegram.machine import choose_device
from training.images import Images, jitter
from training.loop import Losses, Stage, fit
from training.losses import (
    DECODER_WEIGHTS,
    ENCODER_WEIGHTS,
    Alignment,
    Regression,
    decoder_losses,
    encoder_losses,
)
from training.teacher import load_teacher

BATCH = 48  # images a step, in equal parts of every data set
FEW = 20_000  # training images: fewer are turned, scaled and shifted a little


class Batches:
    """Training images of all data sets on a device."""

    def __init__(self, data: Sequence[Images], device: torch.device):
        self.parts = [images.training.to(device) for images in data]
        share, rest = divmod(BATCH, len(data))
        self.counts = [share + (i < rest) for i in range(len(data))]

    def draw(self, rng: torch.Generator) -> Tensor:
        """BATCH images [BATCH, 3, S, S] in [-1, 1], `counts` of each data set, one data set after
        another."""
        drawn = []
        for pixels, count in zip(self.parts, self.counts, strict=True):
            rows = torch.randint(len(pixels), (count,), generator=rng)
            images = to_signed(pixels[rows.to(pixels.device)])
            drawn.append(jitter(images, rng) if len(pixels) < FEW else images)
        return torch.cat(drawn)


def compile_blocks(model: TinyFlexTok, backend: str = "inductor") -> None:
    """Let torch compile the transformer blocks at their first use."""
    for block in (*model.encoder.blocks, *model.decoder.blocks):
        block.compile(backend=backend)


def train(
    model: TinyFlexTok,
    data: Sequence[Images],
    folder: Path,
    encoder_steps: int,
    decoder_steps: int,
    seed: int,
) -> None:
    """Train `model` in place, or resume from the checkpoints in `folder`; on the first CUDA GPU
    where there is one.

    It ends on the CPU, in eval mode, with averaged weights.
    """
    device = choose_device()
    batches = Batches(data, device)
    c = model.config
    torch.manual_seed(seed)  # initial weights of the heads
    regression = Regression(c.tokens * len(c.levels), c.image_size).to(device)
    alignment = Alignment(c.width).to(device)
    steps = max(1, encoder_steps // 2)
    teacher = load_teacher(data, folder / "teacher.pt", steps, seed + 1, device)
    model.to(device)
    if device.type == "cuda":
        # On a CPU compiling takes minutes, and saves a tenth of the encoder's steps and a third of
        # the decoder's.
        compile_blocks(model)

    def of_encoder(rng: torch.Generator) -> Losses:
        images = batches.draw(rng)
        return encoder_losses(model, regression, teacher, images, batches.counts, rng)

    def of_decoder(rng: torch.Generator) -> Losses:
        return decoder_losses(model, alignment, teacher, batches.draw(rng), rng)

    stage = Stage("encoder", encoder_steps, BATCH, seed, ENCODER_WEIGHTS)
    fit(stage, nn.ModuleList([model.encoder, regression]), of_encoder, folder)
    stage = Stage("decoder", decoder_steps, BATCH, seed + 1, DECODER_WEIGHTS)
    fit(stage, nn.ModuleList([model.decoder, alignment]), of_decoder, folder)
    model.cpu().eval()
