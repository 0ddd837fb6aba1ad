"""FlexToks of any size with random weights, also saved as the hub would hold them: where the package is installed."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

import torch
import yaml

LATENT = 16  # channels


@dataclass(frozen=True)
class Shape:
    """What the models of the zoo differ in, and what their configurations may hold."""

    encoder: tuple[int, int] = (64, 2)  # width, depth
    decoder: tuple[int, int] = (64, 2)
    tokens: int = 256
    expansion: int = 2  # adaptive norms: 1, or 2 for patches and registers apart
    checkpoint: bool = False  # blocks wrapped for training


D18_D28 = Shape((18 * 64, 18), (28 * 64, 28))  # the largest of the zoo, used by the first experiments

# As the hub has them: _target_ is a class below flextok or, with a dot before it, below flextok.model.
CONFIG = """
vae: {_target_: vae_wrapper.StableDiffusionVAE, images_read_key: rgb, vae_latents_read_key: latents_out,
  vae_latents_write_key: latents, images_reconst_write_key: rgb_out, vae_kl_loss_write_key: kl, latent_channels: 16,
  scaling_factor: 1.0, dtype_override: fp32, hf_hub_path: $vae, compile_encode_fn: false, force_vae_encode: false,
  frozen: true}
encoder: {_target_: .utils.wrappers.SequentialModuleDictWrapper, module_dict: {
  enc_to_last: {_target_: .utils.dict_ops.PerSampleOp, read_key: latents, write_key: latents_last,
    per_sample_op: {_target_: hydra.utils.get_method, path: flextok.model.utils.dict_ops.channels_first_to_last}},
  enc_patch_emb: {_target_: .preprocessors.patching.PatchEmbedder, input_tensor_list_read_key: latents_last,
    patches_list_write_key: enc_patches, n_patches_write_key: enc_patches_count, channels_in: 16, dim: $enc_width,
    patch_sizes: [2, 2], flatten_patches: false},
  enc_posemb_module: {_target_: .utils.posembs.PositionalEmbeddingAdder, read_key: enc_patches,
    write_key: enc_patches, dim: $enc_width, max_sizes: [16, 16], posemb_type: sincos, posemb_scaling: absolute},
  enc_register_module: {_target_: .preprocessors.registers.Registers1D, input_tensor_list_read_key: enc_patches,
    register_sizes_read_write_key: register_sizes, registers_write_key: enc_registers, dim: $enc_width,
    n_min: $tokens, n_max: $tokens, size_sampling_mode: uniform, ordering_mode: nested},
  enc_seq_packer: {_target_: .preprocessors.flex_seq_packing.BlockWiseSequencePacker,
    input_list_read_keys: [enc_patches, enc_registers], packed_seq_write_key: enc_packed,
    block_mask_write_key: enc_mask, inner_packed_shapes_write_key: enc_ps_inner,
    outer_packed_shapes_write_key: enc_ps_outer, mask_mode: causal_last, pad_to_multiple: 128,
    compile_block_mask: false},
  enc_transformer: {_target_: .trunks.transformers.FlexTransformer, input_seq_read_key: enc_packed,
    output_seq_write_key: enc_packed, dim: $enc_width, depth: $enc_depth, block_mask_read_key: enc_mask,
    use_act_checkpoint: $checkpoint},
  enc_unpacker: {_target_: .postprocessors.seq_unpacking.SequenceUnpacker, packed_seq_read_key: enc_packed,
    inner_seq_write_keys: [enc_patches, enc_registers], inner_packed_shapes_read_key: enc_ps_inner,
    outer_packed_shapes_read_key: enc_ps_outer},
  enc_to_latents: {_target_: .postprocessors.heads.LinearHead, read_key: enc_registers, write_key: enc_latents,
    dim: $enc_width, dim_out: 6, use_mup_readout: false, weight_init_style: xavier, dtype_override: fp32}}}
decoder: {_target_: .utils.wrappers.SequentialModuleDictWrapper, module_dict: {
  dec_from_latents: {_target_: .preprocessors.linear.LinearLayer, read_key: codes, write_key: dec_codes, dim_in: 6,
    dim: $dec_width},
  dec_positions: {_target_: .utils.posembs.PositionalEmbeddingAdder, read_key: dec_codes, write_key: dec_codes,
    dim: $dec_width, max_sizes: [$tokens], posemb_type: learnable_sum, posemb_scaling: absolute},
  dec_nested_dropout: {_target_: .preprocessors.token_dropout.MaskedNestedDropout, read_write_key: dec_codes,
    dim: $dec_width, eval_keep_k_read_key: eval_keep_k, train_keep_k_write_key: train_keep_k,
    size_sampling_mode: uniform},
  dec_null: {_target_: .preprocessors.nullcond.LearnedNullCond, read_write_key: dec_codes, dim: $dec_width,
    dropout_prob: 0.2},
  dec_to_last: {_target_: .utils.dict_ops.PerSampleOp, read_key: noised, write_key: noised_last,
    per_sample_op: {_target_: hydra.utils.get_method, path: flextok.model.utils.dict_ops.channels_first_to_last}},
  dec_patch_emb: {_target_: .preprocessors.patching.PatchEmbedder, input_tensor_list_read_key: noised_last,
    patches_list_write_key: dec_patches, n_patches_write_key: dec_patches_count, channels_in: 16, dim: $dec_width,
    patch_sizes: [2, 2], flatten_patches: false},
  dec_patch_positions: {_target_: .utils.posembs.PositionalEmbeddingAdder, read_key: dec_patches,
    write_key: dec_patches, dim: $dec_width, max_sizes: [16, 16], posemb_type: sincos, posemb_scaling: absolute},
  dec_time: {_target_: .preprocessors.time_embedding.TimestepEmbedder, timesteps_read_key: timesteps,
    time_embedding_write_key: time, dim: $dec_width, max_timestep: 1.0},
  dec_seq_packer: {_target_: .preprocessors.flex_seq_packing.BlockWiseSequencePacker,
    input_list_read_keys: [dec_patches, dec_codes], packed_seq_write_key: dec_packed,
    block_mask_write_key: dec_mask, inner_packed_shapes_write_key: dec_ps_inner,
    outer_packed_shapes_write_key: dec_ps_outer, mask_mode: full, pad_to_multiple: 128, compile_block_mask: false,
    emb_packing_fn_write_key: dec_packing_fn, per_subseq_embs: $apart},
  dec_transformer: {_target_: .trunks.transformers.FlexTransformer, input_seq_read_key: dec_packed,
    output_seq_write_key: dec_packed, dim: $dec_width, depth: $dec_depth, block_mask_read_key: dec_mask,
    use_act_checkpoint: $checkpoint, adaLN_emb_read_key: time, adaLN_packing_fn_read_key: dec_packing_fn,
    adaLN_expansion: $expansion},
  dec_unpacker: {_target_: .postprocessors.seq_unpacking.SequenceUnpacker, packed_seq_read_key: dec_packed,
    inner_seq_write_keys: [dec_patches, dec_codes], inner_packed_shapes_read_key: dec_ps_inner,
    outer_packed_shapes_read_key: dec_ps_outer},
  dec_to_patches: {_target_: .postprocessors.heads.ToPatchesLinearHead, read_key: dec_patches,
    write_key: latents_out_last, dim: $dec_width, channels_out: 16, patch_sizes: [2, 2], adaLN_emb_read_key: time,
    use_mup_readout: false, weight_init_style: xavier, dtype_override: fp32},
  dec_to_first: {_target_: .utils.dict_ops.PerSampleOp, read_key: latents_out_last, write_key: latents_out,
    per_sample_op: {_target_: hydra.utils.get_method, path: flextok.model.utils.dict_ops.channels_last_to_first}}}}
regularizer: {_target_: regularizers.quantize_fsq.FSQ, latents_read_key: enc_latents, quants_write_key: codes,
  tokens_write_key: tokens, levels: [8, 8, 8, 5, 5, 5], packed_call: true}
flow_matching_noise_module: {_target_: flow_matching.noise_modules.MinRFNoiseModule, clean_images_read_key: latents,
  noised_images_write_key: noised, timesteps_write_key: timesteps, sigmas_write_key: sigmas}
pipeline: {_target_: flow_matching.pipelines.MinRFPipeline, _partial_: true, latents_read_key: codes,
  timesteps_read_key: timesteps, noised_images_read_key: noised, reconst_write_key: latents_out, out_channels: 16}
"""


def config(shape: Shape, vae: Path | None) -> dict[str, Any]:
    """The configuration of a FlexTok for 256 x 256 images and tokens of 64,000; the VAE is a saved one, or of real
    size where `vae` is None."""
    values = {
        f"{side}_{name}": value
        for side, size in (("enc", shape.encoder), ("dec", shape.decoder))
        for name, value in zip(("width", "depth"), size, strict=True)
    }
    values |= {"tokens": shape.tokens, "expansion": shape.expansion}
    flags = {"checkpoint": shape.checkpoint, "apart": shape.expansion == 2, "vae": vae and str(vae)}
    text = Template(CONFIG).substitute(values, **{name: json.dumps(value) for name, value in flags.items()})
    text = re.sub(r"_target_: (?!hydra)(\.?)", lambda at: "_target_: flextok." + "model." * len(at[1]), text)
    return yaml.safe_load(text)


def randomize(model: Any) -> Any:
    """Heads and adaptive norms start at zero, which would make every token the same: random weights everywhere."""
    rng = torch.Generator(model.device).manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith("vae.") and parameter.requires_grad:
                scale = 0.1 if parameter.ndim < 2 else 0.5 if "register" in name else parameter.shape[-1] ** -0.5
                parameter.normal_(0, scale, generator=rng)
    return model.eval()


def save_random_flextok(folder: Path, shape: Shape = Shape()) -> Path:
    """Write a random FlexTok with a tiny VAE to `folder`, loadable with FlexTokFromHub.from_pretrained."""
    from diffusers.models import AutoencoderKL
    from flextok.flextok_wrapper import FlexTokFromHub

    torch.manual_seed(0)
    vae = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=LATENT,
        block_out_channels=(8, 8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=256,
    )
    vae.save_pretrained(folder / "vae")
    settings = config(shape, folder / "vae")
    randomize(FlexTokFromHub(settings)).save_pretrained(folder)
    # The hub's writer sorts the keys, but the order of the modules is the order they run in.
    (folder / "config.json").write_text(json.dumps({"config": settings}))
    return folder


def stock_on_cpu(model: Any) -> Any:
    """The package's own calls, as they run without a GPU and give the same tokens each time."""
    from imagegram.codec.flextok import use_plain_attention

    use_plain_attention(model)
    model.vae.sample_posterior = False
    return model
