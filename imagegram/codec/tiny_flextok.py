"""The embedded tokenizer: a miniature of FlexTok (Bachmann et al., 2025, arXiv:2502.13967).

The parts are FlexTok's, at a size whose weights fit in the repository:

- encoder: patches of an RGB image of 32x32 pixels (or 64x64), made by convolutions, and 16
  registers in one transformer. Patches see each other; a register sees the patches and the
  registers before it, so the registers form an ordered sequence.
- quantizer: finite scalar quantization (Mentzer et al., 2023, arXiv:2309.15505) to 512 codes.
- nested dropout: the decoder is trained on prefixes of the registers, so that any prefix decodes
  and the first tokens hold what matters most.
- decoder: a rectified-flow transformer (Liu et al., 2022, arXiv:2209.03003) with the time step in
  adaptive layer norms (Peebles & Xie, 2023) and classifier-free guidance. It works on pixels where
  FlexTok works on the latents of a VAE.

`train_tiny_flextok.py` makes the weights; docs/tiny_flextok.md says what they can do.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn


@dataclass(frozen=True)
class TinyConfig:
    """Sizes of a TinyFlexTok."""

    image_size: int = 32  # pixels
    patch_size: int = 4  # pixels, of the decoder: an eighth of the image
    tokens: int = 16  # registers, the tokens of an image
    levels: tuple[int, ...] = (8, 8, 8)  # FSQ levels; their product is the vocabulary
    width: int = 128
    heads: int = 4
    mlp_ratio: int = 2  # hidden width of the MLPs
    encoder_depth: int = 3
    decoder_depth: int = 4
    pixel_width: int = 16  # channels of the decoder's last layers


class FSQ(nn.Module):
    """Every dimension is squashed by tanh and rounded to one of its levels."""

    levels: Tensor
    basis: Tensor

    def __init__(self, levels: Sequence[int]):
        super().__init__()
        self.register_buffer("levels", torch.tensor(levels), persistent=False)
        basis = torch.cumprod(torch.tensor([1, *levels[:-1]]), 0)
        self.register_buffer("basis", basis, persistent=False)

    def forward(self, z: Tensor) -> Tensor:
        """Latents [..., D] -> codes in [-1, 1], rounded, with the gradient of the unrounded."""
        half = (self.levels - 1) * 1.001 / 2
        offset = torch.where(self.levels % 2 == 0, 0.5, 0.0)
        bounded = (z + (offset / half).atanh()).tanh() * half - offset
        return (bounded + (bounded.round() - bounded).detach()) / (self.levels // 2)

    def to_tokens(self, codes: Tensor) -> Tensor:
        """Codes [..., D] -> token ids [...], int64."""
        digits = (codes * (self.levels // 2)).round().long() + self.levels // 2
        return (digits * self.basis).sum(-1)

    def to_codes(self, tokens: Tensor) -> Tensor:
        """Token ids [...] -> codes [..., D], float32."""
        digits = tokens[..., None] // self.basis % self.levels
        return (digits - self.levels // 2) / (self.levels // 2)


class QuickLinear(nn.Linear):
    """nn.Linear for [B, n, features]; on a CPU, without gradients, as a convolution of 1 x 1, equal
    but for rounding: oneDNN's is twice as fast as MKL's matrix product on AMD's processors."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() or x.device.type != "cpu":
            return super().forward(x)
        return F.conv2d(x.mT[:, :, None], self.weight[:, :, None, None], self.bias)[:, :, 0].mT


class Attention(nn.Module):
    def __init__(self, width: int, heads: int, linear: type[nn.Linear]):
        super().__init__()
        self.heads = heads
        self.qkv = linear(width, 3 * width, bias=False)
        self.out = linear(width, width, bias=False)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        b, n, d = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        q = F.rms_norm(q, q.shape[-1:])
        k = F.rms_norm(k, k.shape[-1:])
        # Written out: for 80 tokens on a CPU, training is twice as fast as with the fused kernel.
        weights = q @ k.transpose(-1, -2) * (d // self.heads) ** -0.5
        if mask is not None:
            weights = weights.masked_fill(~mask, -math.inf)
        return self.out((weights.softmax(-1).to(v.dtype) @ v).transpose(1, 2).reshape(b, n, d))


class Block(nn.Module):
    """Pre-norm transformer block, whose norms a condition scales, shifts and gates (adaLN-Zero)."""

    def __init__(self, width: int, heads: int, mlp_ratio: int, conditional: bool):
        super().__init__()
        # Not in the encoder: rounding may turn a token into its neighbour.
        linear = QuickLinear if conditional else nn.Linear
        self.attention = Attention(width, heads, linear)
        hidden = mlp_ratio * width
        self.mlp = nn.Sequential(linear(width, hidden), nn.GELU(), linear(hidden, width))
        self.modulation = nn.Linear(width, 6 * width) if conditional else None
        if self.modulation is not None:
            nn.init.zeros_(self.modulation.weight)
            nn.init.zeros_(self.modulation.bias)

    def forward(
        self, x: Tensor, mask: Tensor | None = None, condition: Tensor | None = None
    ) -> Tensor:
        norm = (x.shape[-1],)
        if self.modulation is None:
            x = x + self.attention(F.layer_norm(x, norm), mask)
            return x + self.mlp(F.layer_norm(x, norm))
        assert condition is not None
        modulation = self.modulation(F.silu(condition))[:, None]
        scale1, shift1, gate1, scale2, shift2, gate2 = modulation.chunk(6, -1)
        x = x + gate1 * self.attention(F.layer_norm(x, norm) * (1 + scale1) + shift1, mask)
        return x + gate2 * self.mlp(F.layer_norm(x, norm) * (1 + scale2) + shift2)


def _blocks(c: TinyConfig, depth: int, conditional: bool = False) -> nn.ModuleList:
    return nn.ModuleList(Block(c.width, c.heads, c.mlp_ratio, conditional) for _ in range(depth))


def _table(rows: int, width: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(rows, width) * 0.02)


class Encoder(nn.Module):
    """Images [B, 3, H, W] -> latents of the registers [B, tokens, D], before quantization.

    Convolutions make the patches, where FlexTok has a VAE: with linear patches a transformer of
    this size sees corners only after a training many times as long (Xiao et al., 2021,
    arXiv:2106.14881).
    """

    mask: Tensor

    def __init__(self, c: TinyConfig):
        super().__init__()
        layers: list[nn.Module] = []
        for c_in, c_out, stride in ((3, 32, 2), (32, 64, 1), (64, 128, 2)):
            convolution = nn.Conv2d(c_in, c_out, 3, stride, 1)
            layers += [convolution, nn.GroupNorm(c_out // 8, c_out), nn.GELU()]
        self.patches = nn.Sequential(*layers, nn.Conv2d(128, c.width, 3, 2, 1))
        n_patches = (c.image_size // 8) ** 2
        self.patch_position = _table(n_patches, c.width)
        self.registers = _table(c.tokens, c.width)
        self.blocks = _blocks(c, c.encoder_depth)
        self.to_latents = nn.Linear(c.width, len(c.levels))
        # Else the registers hardly differ at the start of training: all images get the same code.
        self.norm = nn.BatchNorm1d(c.tokens * len(c.levels), affine=False, momentum=0.02)
        # patches: each other; registers: all patches and the registers before
        n = n_patches + c.tokens
        mask = torch.ones(n, n, dtype=torch.bool).tril()
        mask[:n_patches, :n_patches] = True
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patches(images).flatten(2).transpose(1, 2) + self.patch_position
        x = torch.cat([x, self.registers.expand(len(x), -1, -1)], 1)
        for block in self.blocks:
            x = block(x, self.mask)
        z = self.to_latents(F.layer_norm(x[:, -len(self.registers) :], x.shape[-1:]))
        return self.norm(z.float().flatten(1)).view_as(z)


class Decoder(nn.Module):
    """Predicted flow (noise - image) [B, 3, H, W] at `time` [B] in [0, 1], from the first `keep`
    [B] codes: 0 is the unconditional branch of the guidance. `seen` gets the patches [B, n, width]
    after every block."""

    def __init__(self, c: TinyConfig):
        super().__init__()
        self.patch_size = c.patch_size
        self.side = c.image_size // c.patch_size
        patch_dim = 3 * c.patch_size**2
        self.from_codes = nn.Linear(len(c.levels), c.width)
        self.token_position = _table(c.tokens, c.width)
        self.dropped = _table(1, c.width)
        self.noise_in = nn.Linear(patch_dim, c.width)
        self.noise_position = _table(self.side**2, c.width)
        layers = nn.Linear(c.width, c.width), nn.SiLU(), nn.Linear(c.width, c.width)
        self.time_in = nn.Sequential(*layers)
        self.blocks = _blocks(c, c.decoder_depth, conditional=True)
        self.patch_out = nn.Linear(c.width, c.pixel_width * c.patch_size**2)
        # The last layers see across the borders of the patches.
        self.pixels = nn.Sequential(
            nn.Conv2d(c.pixel_width + 3, c.pixel_width, 3, 1, 1),
            nn.GELU(),
            nn.Conv2d(c.pixel_width, 3, 3, 1, 1),
        )
        nn.init.zeros_(self.pixels[2].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.pixels[2].bias)  # type: ignore[arg-type]

    def forward(
        self, noised: Tensor, time: Tensor, codes: Tensor, keep: Tensor, seen: list | None = None
    ) -> Tensor:
        n_tokens, width = self.token_position.shape
        kept = torch.arange(n_tokens, device=codes.device) < keep[:, None]
        tokens = torch.where(kept[..., None], self.from_codes(codes), self.dropped)
        patches = F.pixel_unshuffle(noised, self.patch_size).flatten(2).transpose(1, 2)
        places = self.noise_in(patches) + self.noise_position
        x = torch.cat([places, tokens + self.token_position], 1)
        half = width // 2
        frequency = torch.exp(-math.log(1e4) * torch.arange(half, device=time.device) / half)
        angle = 1000 * time[:, None] * frequency
        condition = self.time_in(torch.cat([angle.cos(), angle.sin()], -1))
        for block in self.blocks:
            x = block(x, None, condition)
            if seen is not None:
                seen.append(x[:, :-n_tokens])
        x = self.patch_out(F.layer_norm(x[:, :-n_tokens], (width,)))
        x = F.pixel_shuffle(x.transpose(1, 2).unflatten(2, (self.side, self.side)), self.patch_size)
        return self.pixels(torch.cat([x, noised], 1))


class TinyFlexTok(nn.Module):
    """Encoder, quantizer and flow decoder. Images are float [B, 3, S, S] in [-1, 1]."""

    def __init__(self, config: TinyConfig | None = None):
        super().__init__()
        self.config = config or TinyConfig()
        self.encoder = Encoder(self.config)
        self.fsq = FSQ(self.config.levels)
        self.decoder = Decoder(self.config)

    @torch.inference_mode()
    def tokenize(self, images: Tensor) -> list[Tensor]:
        """Images [B, 3, S, S] in [-1, 1] -> B token sequences, int64 [1, tokens], as in FlexTok."""
        return list(self.fsq.to_tokens(self.fsq(self.encoder(images))).split(1))

    @torch.inference_mode()
    def detokenize(
        self,
        token_ids_list: Sequence[Tensor],
        timesteps: int = 20,
        guidance_scale: float = 2.5,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
    ) -> Tensor:
        """Token sequences [1, k] -> images [B, 3, S, S], unclamped.

        `generator` draws the noise: one for the batch in list order, as in FlexTok, or one per
        image, which makes an image independent of its batch. Guidance is classifier-free (Ho &
        Salimans, 2022, arXiv:2207.12598); 1 is none, and half the work.
        """
        c = self.config
        device = self.encoder.registers.device
        keep = torch.tensor([ids.shape[1] for ids in token_ids_list], device=device)
        padded = [F.pad(ids.to(device), (0, c.tokens - ids.shape[1])) for ids in token_ids_list]
        codes = self.fsq.to_codes(torch.cat(padded))
        shape = (3, c.image_size, c.image_size)
        if isinstance(generator, Sequence):
            own = [torch.randn(shape, generator=g, device=g.device) for g in generator]
            x = torch.stack(own).to(device)
        else:
            x = torch.randn(len(codes), *shape, generator=generator, device=device)
        for step in range(timesteps, 0, -1):
            time = torch.full((len(x),), step / timesteps, device=device)
            if guidance_scale == 1:
                v = self.decoder(x, time, codes, keep)
            else:
                twice = x.repeat(2, 1, 1, 1), time.repeat(2), codes.repeat(2, 1, 1)
                both = self.decoder(*twice, torch.cat([keep, 0 * keep]))
                v, unconditional = both.float().chunk(2)
                v = v + (guidance_scale - 1) * (v - unconditional)
            x = x - v / timesteps
        return x

    def save(self, path: Path) -> None:
        """Write the weights as float16 safetensors. Only the configuration stands in the header,
        because safetensors writes several entries in any order: the same weights, the same
        bytes."""
        tensors = {}
        for name, weights in self.state_dict().items():
            half = weights.half() if weights.is_floating_point() else weights
            tensors[name] = half.contiguous().cpu()
        save_file(tensors, path, {"config": json.dumps(asdict(self.config))})

    @classmethod
    def load(cls, path: Path) -> "TinyFlexTok":
        """Read weights written by `save`, as float32 on the CPU in eval mode."""
        with safe_open(path, "pt") as f:
            fields: dict[str, Any] = json.loads(f.metadata()["config"])
        model = cls(TinyConfig(**(fields | {"levels": tuple(fields["levels"])})))
        model.load_state_dict(load_file(path))
        return model.float().eval()
