"""The parts of FlexTok's dense path (flextok_dense.py): blocks, attention, both halves of the VAE,
and the search for the modules of the loaded package that they take their weights from."""

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch._dynamo
import torch.nn.functional as F
from flextok.model.layers.mlp import GatedMlp
from flextok.model.layers.norm import Fp32LayerNorm
from flextok.model.layers.transformer_blocks import FlexBlock, FlexBlockAdaLN
from flextok.model.preprocessors.patching import PatchEmbedder
from flextok.model.trunks.transformers import FlexTransformer
from flextok.model.utils.posembs import PositionalEmbedding, PositionalEmbeddingAdder
from flextok.vae_wrapper import StableDiffusionVAE
from torch import Tensor, nn

# queries, keys, values, scale -> [B, heads, rows, d]
Attend = Callable[[Tensor, Tensor, Tensor, float], Tensor]

# The hidden width of the MLP, 4778, is padded with zeros to a multiple: tensor cores need aligned
# shapes.
PAD = 64
# Dropped registers that stand for all: attention kernels ask of a bias lengths that 8 divides.
COPIES = 8
STEP = 64  # prefixes are rounded up to multiples of it (and COPIES), to share a handful of graphs
GRAPHS = 64  # shapes compiled at most: at the default of 8 a ninth runs uncompiled without a word


class Unsupported(NotImplementedError):
    """The model is laid out in another way; the text says what was found."""


def need(covered: bool, found: str) -> None:
    if not covered:
        raise Unsupported(found)


class Chain:
    """One side of FlexTok: modules that run one after another, here searched by type."""

    def __init__(self, wrapper: Any, kinds: set[type]):
        self.modules = list(wrapper.module_dict.values())
        for module in self.modules:
            need(type(module) in kinds, f"a module of type {type(module).__name__}")

    def only(self, *kinds: type) -> list[Any]:
        """The one module of each kind."""
        several = [[m for m in self.modules if type(m) is kind] for kind in kinds]
        for kind, found in zip(kinds, several, strict=True):
            need(len(found) == 1, f"{len(found)} modules of type {kind.__name__}")
        return [module for (module,) in several]

    def positions(self, key: str) -> tuple[Tensor, int]:
        """The positional embedding [1, n, D] added to what is called `key`, and its place in the
        chain."""
        adders = [m for m in self.modules if type(m) is PositionalEmbeddingAdder]
        found = [m for m in adders if m.read_key == m.write_key == key]
        need(len(found) == 1, f"{len(found)} positional embeddings of {key}")
        table = PositionalEmbedding.forward(found[0], list(found[0].max_sizes)).detach()
        place = self.modules.index(found[0])
        return table.flatten(2).transpose(1, 2).float().contiguous(), place


def to_patches(x: Tensor, p: int) -> Tensor:
    """[B, C, H, W] -> non-overlapping patches [B, H/p * W/p, p * p * C]."""
    b, c, h, w = x.shape
    squares = x.view(b, c, h // p, p, w // p, p).permute(0, 2, 4, 3, 5, 1)
    return squares.reshape(b, h * w // p**2, p * p * c)


def from_patches(x: Tensor, p: int, h: int, w: int) -> Tensor:
    """The inverse of `to_patches`, to [B, C, H, W]."""
    b, _, d = x.shape
    squares = x.view(b, h // p, w // p, p, p, d // p**2)
    return squares.permute(0, 5, 1, 3, 2, 4).reshape(b, d // p**2, h, w)


def prefix_causal(q: Tensor, k: Tensor, v: Tensor, scale: float, prefix: int, last: bool) -> Tensor:
    """Attention [B, heads, N, d] where the first `prefix` tokens see each other and a later one
    sees all before it.

    Seen from a later token that is causal attention over everything; seen from the prefix it is
    full attention over the prefix. Two calls without a mask therefore, both on the fastest kernels;
    the prefix rows of the causal one are thrown away. `last`: the later rows only.
    """
    causal = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)[:, :, prefix:]
    if last:
        return causal
    q, k, v = (x[:, :, :prefix] for x in (q, k, v))
    return torch.cat([F.scaled_dot_product_attention(q, k, v, scale=scale), causal], 2)


def merged_rows(length: int, kept: int) -> int:
    """Registers to compute when the longest prefix keeps `kept` of `length`: those, and copies of
    the dropped one."""
    if kept == length:
        return length
    steps = max(0, -(-(kept + 1 - COPIES) // STEP))
    return min(length, COPIES + STEP * steps)


def log_weights(length: int, rows: int, kept: Tensor) -> Tensor:
    """How much each of `rows` registers counts in attention, as logarithms [B, rows]; `kept` [B].

    An image that keeps k registers has length - k equal dropped ones, of which rows - k are
    computed: each of these stands for (length - k) / (rows - k) tokens. A softmax over n equal
    logits x gives them n exp(x) = exp(x + log n).
    """
    share = (length - kept).double().log() - (rows - kept).double().log()
    own = torch.arange(rows, device=kept.device) < kept[:, None]
    return torch.where(own, 0.0, share[:, None]).float()


class Block(nn.Module):
    """A transformer block: fused projections, weights in `dtype`, the residual in float32."""

    qkv: Tensor
    out: Tensor
    up: Tensor
    down: Tensor

    def __init__(self, block: Any, dtype: torch.dtype):
        super().__init__()
        block = getattr(block, "_checkpoint_wrapped_module", block)
        need(type(block) in (FlexBlock, FlexBlockAdaLN), f"a block of type {type(block).__name__}")
        attention = block.attn
        mlp = block.mlp
        need(type(mlp) is GatedMlp and type(mlp.act) is nn.SiLU, "an MLP that is no SwiGLU")
        norms = block.norm1, block.norm2, attention.q_norm, attention.k_norm
        plain = all(type(n) is Fp32LayerNorm and n.weight is n.bias is None for n in norms)
        need(plain, "an unexpected norm")
        qkv = attention.wq, attention.wk, attention.wv
        linears = *qkv, attention.proj, mlp.fc1, mlp.fc2, mlp.fc3
        need(all(linear.bias is None for linear in linears), "a bias in a block")
        self.heads = attention.num_heads
        self.scale = attention.scale
        self.eps = [norm.eps for norm in norms]
        fill = -mlp.fc1.out_features % PAD
        gate, value = (F.pad(linear.weight, (0, 0, 0, fill)) for linear in (mlp.fc1, mlp.fc3))
        weights = {
            "qkv": torch.cat([linear.weight for linear in qkv]),
            "out": attention.proj.weight,
            "up": torch.cat([gate, value]),
            "down": F.pad(mlp.fc2.weight, (0, fill)),
        }
        for name, weight in weights.items():
            self.register_buffer(name, weight.detach().to(dtype).contiguous())

    def forward(
        self, x: Tensor, attend: Attend, modulation: Tensor, rows: slice = slice(None)
    ) -> Tensor:
        """x float32 [B, N, D] -> [B, rows, D]. `attend` gives the attention's output of `rows`.

        modulation: [6, 1, N or 1, D or 1], two gates, then shift and scale of both norms.
        """
        dtype = self.qkv.dtype
        (b, n, d) = x.shape
        gate, gate2, shift, scale, shift2, scale2 = modulation.expand(6, 1, n, -1)
        h = F.layer_norm(x, (d,), eps=self.eps[0]) * (1 + scale) + shift
        qkv = F.linear(h.to(dtype), self.qkv).view(b, n, 3, self.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        q = F.layer_norm(q.float(), q.shape[-1:], eps=self.eps[2]).to(dtype)
        k = F.layer_norm(k.float(), k.shape[-1:], eps=self.eps[3]).to(dtype)
        h = attend(q, k, v, self.scale).transpose(1, 2).flatten(2)
        x = x[:, rows] + gate[:, rows] * F.linear(h, self.out).float()
        h = F.layer_norm(x, (d,), eps=self.eps[1]) * (1 + scale2[:, rows]) + shift2[:, rows]
        a, g = F.linear(h.to(dtype), self.up).chunk(2, -1)
        return x + gate2[:, rows] * F.linear(F.silu(a) * g, self.down).float()


class HalfVae(nn.Module):
    """The VAE's encoder (to the posterior's mean) or decoder; in float32 as it is configured."""

    def __init__(self, vae: Any, encoder: bool, dtype: torch.dtype):
        super().__init__()
        need(type(vae) is StableDiffusionVAE, f"a VAE of type {type(vae).__name__}")
        names = ("encoder", "quant_conv") if encoder else ("post_quant_conv", "decoder")
        parts = [getattr(vae.vae, name) for name in names]
        self.layers = nn.Sequential(*(part for part in parts if part is not None))
        exact = dtype == torch.float32
        if not exact:
            lower = copy.deepcopy(self.layers).to(dtype)
            self.layers = lower.to(memory_format=torch.channels_last)
        self.dtype = vae.dtype_override if exact else dtype
        # the configuration may ask for lower precision itself
        self.autocast = exact and self.dtype != torch.float32

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, self.dtype, enabled=self.autocast):
            return self.layers(x.to(self.dtype))


def compiled_or_not(function: Callable[..., Tensor], wanted: bool) -> Callable[..., Tensor]:
    """`function` compiled for every shape; as it is, with one line, where no compiler works."""
    if not wanted:
        return function
    torch._dynamo.config.recompile_limit = GRAPHS
    compiled = torch.compile(function, dynamic=False)
    works = True

    def call(*args: Any) -> Tensor:
        nonlocal works
        if works:
            try:
                return compiled(*args)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # of the compiler, Triton, the C compiler
                works = False
                print(f"not compiled, which is slower: {str(error).strip().splitlines()[0]}")
        return function(*args)

    return call


class Half(nn.Module):
    """What both halves of the dense path have, over the weights of a loaded FlexTok."""

    positions: Tensor

    def __init__(self, model: Any, chain: Chain, encoder: bool, dtype: torch.dtype):
        super().__init__()
        embed, trunk = chain.only(PatchEmbedder, FlexTransformer)
        sizes = embed.patch_sizes
        need(len(sizes) == 2 and sizes[0] == sizes[1], f"patches of {sizes}")
        plain = trunk.rope_forward_read_key is trunk.score_mod_read_key is None
        need(plain, "rotary positions or modified scores")
        self.patch = int(sizes[0])
        self.embed = embed.patch_proj
        self.register_buffer("positions", chain.positions(embed.patches_list_write_key)[0])
        self.blocks = nn.ModuleList(Block(block, dtype) for block in trunk.blocks)
        self.vae = HalfVae(model.vae, encoder, dtype)
        self.vae_scale = float(model.vae.scaling_factor)
        self.quantizer = model.regularizer

    def patches(self, latents: Tensor) -> Tensor:
        """Latents [B, C, h, w] -> what the first block gets of them, [B, n, D]."""
        return self.embed(to_patches(latents, self.patch)) + self.positions


def precision_of(module: Any, device: torch.device) -> torch.autocast:
    """The lower precision than float32 that the configuration may run one module in."""
    dtype = module.dtype_override
    return torch.autocast(device.type, dtype, enabled=dtype not in (None, torch.float32))
