"""The losses that train the two halves of the embedded tokenizer, and the heads that they need
meanwhile."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imagegram.codec.tiny_flextok import TinyFlexTok
from training.loop import Losses
from training.teacher import Teacher

DROP_ALL = 0.1  # share of images whose tokens are all dropped, for the guidance
# mean of the logit of the time, which is normal: what the tokens decide is decided among much noise
NOISE_SHIFT = 0.7
ENCODER_WEIGHTS = {"pixels": 0.5, "features": 0.2, "spread": 0.05}
DECODER_WEIGHTS = {"flow": 1.0, "alignment": 0.5}


def prefix_lengths(tokens: int) -> tuple[int, ...]:
    """How many of an image's tokens are kept where prefixes are trained most and evaluated: the
    powers of two.

    >>> prefix_lengths(16)
    (1, 2, 4, 8, 16)
    """
    return tuple(2**i for i in range(tokens.bit_length()))


class Regression(nn.Module):
    """The decoder that the encoder is trained with, thrown away afterwards: a flow decoder does not
    listen to the codes at first, and they collapse.

    Codes [B, tokens, D], of which the first `keep` [B] are seen -> pixels [B, 3, S, S] and the
    teacher's features.
    """

    def __init__(self, codes: int, image_size: int):
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(codes, 512), nn.GELU())
        self.whole = nn.Linear(512, 256)
        self.grid = nn.Sequential(nn.Linear(512, 64 * 64), nn.GELU(), nn.Unflatten(1, (64, 8, 8)))
        self.map = nn.Conv2d(64, 128, 1)
        layers: list[nn.Module] = [nn.Conv2d(64, 64, 3, 1, 1), nn.GELU()]
        # each doubles the size
        for c_in, c_out in ((64, 16), (16, 8), (8, 8))[: (image_size // 8).bit_length() - 1]:
            layers += [nn.Conv2d(c_in, 4 * c_out, 3, 1, 1), nn.PixelShuffle(2), nn.GELU()]
        self.pixels = nn.Sequential(*layers, nn.Conv2d(8, 3, 3, 1, 1))

    def forward(self, codes: Tensor, keep: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        kept = torch.arange(codes.shape[1], device=codes.device) < keep[:, None]
        hidden = self.hidden((codes * kept[..., None]).flatten(1))
        grid = self.grid(hidden)
        return self.pixels(grid).float(), self.map(grid).float(), self.whole(hidden).float()


class Alignment(nn.Module):
    """Predicts the teacher's map [B, 128, 8, 8] from the decoder's patches [B, 64, width] after its
    second block; thrown away afterwards. So the decoder heeds early what the tokens say is where.
    """

    def __init__(self, width: int):
        super().__init__()
        layers = nn.Linear(width, 256), nn.GELU(), nn.Linear(256, 128)
        self.head = nn.Sequential(*layers, nn.Unflatten(1, (8, 8)))

    def forward(self, patches: Tensor) -> Tensor:
        return self.head(patches).permute(0, 3, 1, 2).float()


def crowding(latents: Tensor) -> Tensor:
    """Latents [n, tokens, D] -> for every token the log of the mean Gaussian potential between its
    latents: the uniformity of Wang & Isola (2020, arXiv:2005.10242)."""
    bounded = latents.tanh().transpose(0, 1)
    distance = (bounded[:, :, None] - bounded[:, None]).square().sum(-1)
    n = len(latents)
    # has no vote; an index would make a GPU wait
    itself = torch.eye(n, dtype=torch.bool, device=latents.device)
    potential = (-4 * distance.masked_fill(itself, math.inf)).exp()
    return (potential.sum((1, 2)) / (n * (n - 1))).log()


def encoder_losses(
    model: TinyFlexTok,
    regression: Regression,
    teacher: Teacher,
    images: Tensor,
    counts: Sequence[int],
    rng: torch.Generator,
) -> Losses:
    """Regression from all codes and from a prefix of them, and how crowded the latents are.

    The latents of each data set (`counts` images of each, one after another) are spread, so that
    each uses most of the code book and not a corner of it. The first token is spread over all
    together, else it cannot tell a digit from a scene. Of digits, which are alike, this alone would
    leave too few codes: the first data set counts twice.
    """
    n, tokens = len(images), model.config.tokens
    z = model.encoder(images)
    codes = model.fsq(z)
    lengths = torch.tensor(prefix_lengths(tokens))
    prefix = lengths[torch.randint(len(lengths), (n,), generator=rng)]
    keep = torch.cat([torch.full((n,), tokens), prefix]).to(images.device)
    predicted = regression(codes.repeat(2, 1, 1), keep)
    wanted = images, *teacher(images)
    pixels, maps, whole = (
        F.mse_loss(x, torch.cat([y, y])) for x, y in zip(predicted, wanted, strict=True)
    )
    within = torch.stack([crowding(own) for own in z.split(list(counts))])  # [data sets, tokens]
    first = 6 * crowding(z[:, :1]) + 2 * within[0, :1]
    spread = torch.cat([first, 2 * within.mean(0)[1:]]).mean()
    return {"pixels": pixels, "features": maps + whole, "spread": spread}


def decoder_losses(
    model: TinyFlexTok, alignment: Alignment, teacher: Teacher, images: Tensor, rng: torch.Generator
) -> Losses:
    """Flow matching from prefixes of the codes, and how far the decoder's patches are from the
    teacher's features (one minus their cosine); the encoder is finished."""
    n, tokens = len(images), model.config.tokens
    with torch.no_grad():
        codes = model.fsq(model.encoder(images))
    uniform = torch.randint(1, tokens + 1, (n,), generator=rng)
    # FlexTok's choice, rich in short prefixes
    power = 2 ** torch.randint(tokens.bit_length(), (n,), generator=rng)
    keep = torch.where(torch.rand(n, generator=rng) < 0.5, power, uniform)
    keep = torch.where(torch.rand(n, generator=rng) < DROP_ALL, 0, keep).to(images.device)
    time = torch.sigmoid(NOISE_SHIFT + torch.randn(n, generator=rng)).to(images.device)
    noise = torch.randn(images.shape, generator=rng).to(images.device)
    mix = time[:, None, None, None]
    seen: list[Tensor] = []
    velocity = model.decoder((1 - mix) * images + mix * noise, time, codes, keep, seen)
    similarity = F.cosine_similarity(alignment(seen[1]), teacher(images)[0], dim=1)
    flow = F.mse_loss(velocity.float(), noise - images)
    return {"flow": flow, "alignment": 1 - similarity.mean()}
