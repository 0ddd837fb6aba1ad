"""FlexTok made dense: the tokens and images of the package's own calls, several times faster on a
GPU.

FlexTok (Bachmann et al., 2025, arXiv:2502.13967) is a VAE, a transformer encoder that writes an
image into registers, and a flow-matching transformer decoder that reads them. Its package packs all
images of a batch into one long sequence, which serves images and registers of any size. Here every
image has the same size, and then:

1. A batch is a plain [B, N, D] tensor: no packing, no block masks to build, ordinary attention
   kernels, one shape that compiles once. Queries, keys and values come from one matrix product, so
   do the two halves of the SwiGLU; the weights are cast once; the residual stream stays in float32.
2. The encoder's mask (patches see each other; a register sees the patches and the registers before
   it) needs no mask: see `prefix_causal`.
3. The decoder's adaptive norms depend on the time step alone: all vectors of a schedule are
   computed once, not for every image and step.
4. Dropped registers are copies of one vector, and equal tokens stay equal through every layer. So a
   few of them stand for all, with the logarithm of the number that each stands for added to its
   attention logit. The unconditional half of guidance (256 null registers) shrinks from 512 tokens
   to 264, a 64-token prefix to 328: see `log_weights`. This is the largest gain in decoding.
5. The last layer computes only the rows that somebody reads: the registers of the encoder, the
   patches of the decoder.
6. Guidance is computed for the whole batch at once, and no step copies its inputs.

All of it is exact: in float32 the tokens are identical and images differ by rounding
(tests/codec/test_flextok_dense.py compares, and breaks each part to see the comparison fail).
Modules and weights are those of the package, found by type; a model that is laid out in another way
is refused with `Unsupported`.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from flextok.flow_matching.cfg_utils import MomentumBuffer, normalized_guidance
from flextok.flow_matching.pipelines import MinRFPipeline
from flextok.model.postprocessors.heads import LinearHead, ToPatchesLinearHead
from flextok.model.postprocessors.seq_unpacking import SequenceUnpacker
from flextok.model.preprocessors.flex_seq_packing import BlockWiseSequencePacker
from flextok.model.preprocessors.linear import LinearLayer
from flextok.model.preprocessors.nullcond import LearnedNullCond
from flextok.model.preprocessors.patching import PatchEmbedder
from flextok.model.preprocessors.registers import Registers1D
from flextok.model.preprocessors.time_embedding import TimestepEmbedder
from flextok.model.preprocessors.token_dropout import MaskedNestedDropout
from flextok.model.trunks.transformers import FlexTransformer
from flextok.model.utils.dict_ops import PerSampleOp
from flextok.model.utils.posembs import PositionalEmbeddingAdder
from flextok.regularizers.quantize_fsq import FSQ
from torch import Tensor, nn

from imagegram.codec.flextok_blocks import (
    Chain,
    Half,
    compiled_or_not,
    from_patches,
    log_weights,
    merged_rows,
    need,
    precision_of,
    prefix_causal,
)
from imagegram.data.preprocess import to_signed
from imagegram.tokens import SEPARATOR

EVERYWHERE = {PerSampleOp, PatchEmbedder, PositionalEmbeddingAdder, FlexTransformer}
EVERYWHERE |= {BlockWiseSequencePacker, SequenceUnpacker}


class FastEncoder(Half):
    """Images -> tokens."""

    registers: Tensor
    plain: Tensor

    def __init__(self, model: Any, dtype: torch.dtype = torch.float32, compiled: bool = False):
        chain = Chain(model.encoder, EVERYWHERE | {Registers1D, LinearHead})
        embed, registers, packer = chain.only(PatchEmbedder, Registers1D, BlockWiseSequencePacker)
        trunk, head = chain.only(FlexTransformer, LinearHead)
        keys = [embed.patches_list_write_key, registers.registers_write_key]
        last = packer.mask_mode == "causal_last"
        need(packer.input_list_read_keys == keys and last, "another attention mask")
        need(head.read_key == keys[1] and head.adaLN_emb_read_key is None, "another head")
        alone = registers.extra_registers_write_key is None
        need(registers.ordering_mode == "nested" and alone, "other registers")
        need(trunk.adaLN_emb_read_key is None, "an encoder with adaptive norms")
        need(type(model.regularizer) is FSQ, "another quantizer")
        super().__init__(model, chain, True, dtype)
        self.head = head
        self.register_buffer("registers", registers.registers.detach()[None, : registers.n_eval])
        # No adaptive norms here: gates of 1, shifts and scales of 0.
        self.register_buffer("plain", torch.tensor([1.0, 1, 0, 0, 0, 0]).view(6, 1, 1, 1))
        self.to(model.device)
        self._latents = compiled_or_not(self.latents, compiled)
        self._codes = compiled_or_not(self.codes, compiled)

    def latents(self, images: Tensor) -> Tensor:
        """uint8 [B, 3, S, S] -> the mean of the VAE's posterior, float32 [B, C, S/8, S/8].

        Pixels travel as bytes and become [-1, 1] here. For every byte x / 127.5 - 1 is what
        torchvision's ToTensor and Normalize give, (x / 255 - 0.5) / 0.5; a GPU that multiplies by
        the reciprocal is 1.2e-7 off at most. Resizing stays on the host: on a GPU it would
        interpolate otherwise than Pillow does.
        """
        mean, _ = self.vae(to_signed(images)).chunk(2, 1)
        return mean.float() * self.vae_scale

    def codes(self, latents: Tensor) -> Tensor:
        """Latents -> what FSQ rounds, [B, L, digits]."""
        x = self.patches(latents)
        n = x.shape[1]
        x = torch.cat([x, self.registers.expand(len(x), -1, -1)], 1)
        attend = partial(prefix_causal, prefix=n)
        for block in self.blocks[:-1]:
            x = block(x, partial(attend, last=False), self.plain)
        x = self.blocks[-1](x, partial(attend, last=True), self.plain, slice(n, None))
        return self.head.forward_default(x)

    @torch.inference_mode()
    def tokens(self, images: Tensor) -> Tensor:
        """uint8 [B, 3, S, S] on the model's device -> int64 [B, L]; all of an image's are SEPARATOR
        where a value in it overflowed `dtype`."""
        codes = self._codes(self._latents(images)).float()
        tokens = self.quantizer.forward_z(codes)[1]
        return torch.where(codes.isfinite().flatten(1).all(1)[:, None], tokens, SEPARATOR)


def check_decoder(model: Any, chain: Chain) -> None:
    """Unsupported where modules are joined in another way than FastDecoder computes."""
    embed, packer, trunk = chain.only(PatchEmbedder, BlockWiseSequencePacker, FlexTransformer)
    linear, dropout, null = chain.only(LinearLayer, MaskedNestedDropout, LearnedNullCond)
    time, head = chain.only(TimestepEmbedder, ToPatchesLinearHead)
    patches, registers = embed.patches_list_write_key, linear.write_key
    key = time.time_embedding_write_key
    full = packer.mask_mode == "full"
    need(packer.input_list_read_keys == [patches, registers] and full, "another attention mask")
    need(dropout.read_write_key == null.read_write_key == registers, "dropout of something else")
    need(not null.replace_with_single_token, "a single null token")
    packed = trunk.adaLN_packing_fn_read_key == packer.emb_packing_fn_write_key
    need(trunk.adaLN_emb_read_key == key and packed, "other adaptive norms")
    need(head.read_key == patches and head.adaLN_packing_fn_read_key is None, "another head")
    known = head.adaLN_emb_read_key in (key, None)
    need(known and not time.temb_as_tokens, "another time embedding")
    kinds = type(model.pipeline), type(model.regularizer)
    need(kinds == (MinRFPipeline, FSQ), "another flow or quantizer")
    # Dropped registers are equal only if they are written after the positions are added.
    _, place = chain.positions(registers)
    written = min(chain.modules.index(dropout), chain.modules.index(null))
    need(place < written, "positions of dropped registers")


class FastDecoder(Half):
    """Tokens -> images."""

    register_positions: Tensor

    def __init__(self, model: Any, dtype: torch.dtype = torch.float32, compiled: bool = False):
        own = {LinearLayer, MaskedNestedDropout, LearnedNullCond, TimestepEmbedder}
        chain = Chain(model.decoder, EVERYWHERE | own | {ToPatchesLinearHead})
        check_decoder(model, chain)
        super().__init__(model, chain, False, dtype)
        packer, trunk = chain.only(BlockWiseSequencePacker, FlexTransformer)
        self.linear, dropout, null = chain.only(LinearLayer, MaskedNestedDropout, LearnedNullCond)
        self.time, self.head = chain.only(TimestepEmbedder, ToPatchesLinearHead)
        self.expansion = 2 if packer.per_subseq_embs else 1
        self.register_buffer("register_positions", chain.positions(self.linear.write_key)[0])
        self.mask_token = dropout.dropout_mask_token
        self.null_token = null.nullcond
        self.length = self.register_positions.shape[1]
        wrapped = [getattr(block, "_checkpoint_wrapped_module", block) for block in trunk.blocks]
        self.modulations = nn.ModuleList(block.adaLN_modulation for block in wrapped)
        lasts = [block.adaLN_modulation[-1] for block in wrapped]
        alike = all(last.out_features == self.expansion * 6 * last.in_features for last in lasts)
        need(alike, "another expansion")
        self.to(model.device)
        self._schedules: dict[int, tuple[Tensor, Tensor]] = {}
        self._velocity = compiled_or_not(self.velocity, compiled)
        self._pixels = compiled_or_not(self.pixels, compiled)

    def schedule(self, timesteps: int) -> tuple[Tensor, Tensor]:
        """Shifts, scales and gates of every time step, which depend on nothing else: of the blocks
        [steps, depth, expansion, 6, D], of the head [steps, 2, D]."""
        if timesteps not in self._schedules:
            # On the host, because the package checks the times in a way that waits for a GPU.
            times = torch.tensor([i / timesteps for i in range(timesteps, 0, -1)])
            waves = self.time.timestep_embedding(times, self.time.frequency_embedding_size)
            embedding = self.time.mlp(waves.to(self.positions.device))
            all_blocks = torch.stack([layer(embedding) for layer in self.modulations], 1)
            blocks = all_blocks.view(timesteps, len(self.modulations), self.expansion, 6, -1)
            head = torch.zeros(timesteps, 2, embedding.shape[1], device=embedding.device)
            if self.head.adaLN_emb_read_key is not None:
                head = self.head.adaLN_modulation(embedding).view(timesteps, 2, -1)
            # the last one only: 50 MB
            self._schedules = {timesteps: (blocks.float(), head.float())}
        return self._schedules[timesteps]

    def conditions(self, tokens: Tensor, kept: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        """int64 [B, L], of which the first `kept` of each image count -> registers [B, rows, D] and
        their log weights, if any. The host decides on the rows, without waiting for a GPU."""
        rows = merged_rows(self.length, max(kept))
        count = torch.tensor(kept).to(tokens.device)
        codes = self.quantizer.indices_to_embedding(tokens[:, :rows])
        with precision_of(self.linear, codes.device):
            registers = self.linear.proj(codes) + self.register_positions[:, :rows]
        keep = torch.arange(rows, device=tokens.device) < count[:, None]
        registers = torch.where(keep[:, :, None], registers.float(), self.mask_token)
        return registers, None if rows == self.length else log_weights(self.length, rows, count)

    def velocity(
        self, z: Tensor, registers: Tensor, weights: Tensor | None, blocks: Tensor, head: Tensor
    ) -> Tensor:
        """Noised latents float32 [B, C, h, w], registers [B, rows, D] and their log weights [B,
        rows] -> velocity float32 [B, C, h, w]; `blocks` and `head`: a step of the schedule."""
        x = self.patches(z)
        n = x.shape[1]
        rows = registers.shape[1]
        x = torch.cat([x, registers.expand(len(x), -1, -1)], 1)
        bias = None if weights is None else F.pad(weights, (n, 0))[:, None, None]

        def attend(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
            mask = None if bias is None else bias.to(q.dtype).expand(len(q), 1, q.shape[2], -1)
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)

        def attend_from_patches(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
            return attend(q[:, :, :n], k, v, scale)

        *inner, outer = zip(self.blocks, blocks, strict=True)
        for block, step in inner:
            x = block(x, attend, self._spread(step, n, rows))
        x = outer[0](x, attend_from_patches, self._spread(outer[1], n, rows), slice(n))
        with precision_of(self.head, x.device):
            x = self.head.proj(self.head.norm(x) * (1 + head[1]) + head[0])
        return from_patches(x.float(), self.patch, *z.shape[2:])

    def _spread(self, step: Tensor, patches: int, registers: int) -> Tensor:
        """One block's vectors [expansion, 6, D] over the tokens: [6, 1, N or 1, D]."""
        if self.expansion == 1:
            return step[0][:, None, None]
        counts = patches, registers
        parts = [s[:, None].expand(-1, n, -1) for s, n in zip(step, counts, strict=True)]
        return torch.cat(parts, 1)[:, None]

    def pixels(self, latents: Tensor) -> Tensor:
        """Latents -> images [B, 3, S, S] about [-1, 1]."""
        return self.vae(latents / self.vae_scale)

    @torch.inference_mode()
    def images(
        self, tokens: Tensor, kept: list[int], noise: Tensor, timesteps: int, guidance_scale: float
    ) -> Tensor:
        """Tokens int64 [B, L], of which the first `kept` of each image count; noise float32 [B, C,
        h, w], where the flow starts -> float32 [B, 3, S, S] about [-1, 1]; with the package's norm
        guidance."""
        z = noise
        momentum = MomentumBuffer(-0.5)
        registers, weights = self.conditions(tokens, kept)
        copies = merged_rows(self.length, 0)
        nulls = self.null_token.expand(1, copies, -1)
        none = torch.zeros(1, dtype=torch.long, device=noise.device)
        null_weights = log_weights(self.length, copies, none)
        blocks, head = self.schedule(timesteps)
        for step in range(timesteps):
            velocity = self._velocity(z, registers, weights, blocks[step], head[step])
            if guidance_scale != 1:
                without = self._velocity(z, nulls, null_weights, blocks[step], head[step])
                velocity = normalized_guidance(
                    velocity, without, guidance_scale, momentum, eta=0.0, norm_threshold=2.5
                )
            z = z - velocity / timesteps
        return self._pixels(z).float()
