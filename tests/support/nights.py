"""A small finished night, made with a codec that costs nothing."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from imagegram import tokenizing
from imagegram.generating import Request, Run
from imagegram.index.build import build_index
from imagegram.metrics import coherence
from imagegram.metrics.held_out import read_held_out
from imagegram.report.page import Sources, write_page
from imagegram.report.pictures import Originals
from imagegram.report.record import HELD_OUT, Night
from imagegram.samplers import Aligned, Ntd
from imagegram.samplers.draw import Draw
from imagegram.tokens import Prefixes
from overnight.night import reconstruct_held_out
from tests.support.fake_codec import FakeCodec
from tests.support.tokenize import tokenize

DRAWS = {
    "copies": Draw(Ntd(context=4)),
    "two words": Draw(Aligned(context=1)),  # names may hold what HTML and CSS do not like
    "unigram": Draw(Aligned(context=0)),
    "completes": Draw(Aligned(context=1), length=6, prompt=2),
}


class ColourCodec(FakeCodec):
    """Eight tokens an image, of few values; an image has the colour of its tokens' sum."""

    tokens_per_image = 8
    vocab_size = 27
    levels: tuple[int, ...] = (3, 3, 3)

    def encode(self, images: Tensor) -> NDArray[np.uint16]:
        sums = images.long().flatten(1).unflatten(1, (8, -1)).sum(2)
        return (sums // 3000 % self.vocab_size).numpy().astype(np.uint16)

    def decode(
        self, tokens: Prefixes, seeds: Sequence[int], timesteps: int, guidance_scale: float
    ) -> Tensor:
        sums = torch.tensor([[int(row.sum()), int(row[0]) * 9, len(row) * 20] for row in tokens])
        return (sums % 256).to(torch.uint8)[:, :, None, None].expand(-1, -1, 32, 32).contiguous()


def small_night(
    out: Path, datasets: Sequence[tuple[str, int]] = (("shapes", 500),), failed: str = ""
) -> Sources:
    """A night over (data set, images) with a page; `failed`: a sampler that is said to have."""
    codec = ColourCodec()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenizing, "load_codec", lambda name: codec)
        patch.setattr(coherence, "STEPS", 2)
        folders = [
            tokenize(name, out / f"tokens-{name}", images=n, workers=0) for name, n in datasets
        ]
        index = build_index([folder.path for folder in folders], out / "index_input", out / "index")
        held_out = read_held_out(index)
        draws = {name: draw.to_json() for name, draw in DRAWS.items()}
        night = Night("overnight_run.py --test '<b>'", 40, 20, 3, draws)
        for name, draw in DRAWS.items():
            if name != failed:
                request = Request(draw, 40, 20, 3, prefixes=2)
                Run(index, codec, held_out, request, night.folder(out, name)).generate()
        if failed:
            night.failed[failed] = "a reason with <angles>"
        request = Request(Draw(Aligned()), 20, 20, 3)
        reconstruct_held_out(Run(index, codec, held_out, request, night.folder(out, HELD_OUT)))
        night.write(out)
        sources = Sources(out, night, index, held_out, Originals(folders))
        write_page(sources)
    return sources
