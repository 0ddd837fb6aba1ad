"""FlexToks of any size with random weights, also saved as the hub would hold them: where the package is installed."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

LATENT = 16  # channels
FLEXTOK = "flextok.model."
OPS = FLEXTOK + "utils.dict_ops."


def _op(name: str) -> dict[str, str]:
    return {"_target_": "hydra.utils.get_method", "path": OPS + name}


def _chain(**modules: dict[str, Any]) -> dict[str, Any]:
    return {"_target_": FLEXTOK + "utils.wrappers.SequentialModuleDictWrapper", "module_dict": modules}


def _permute(read: str, write: str, name: str) -> dict[str, Any]:
    return {"_target_": OPS + "PerSampleOp", "read_key": read, "write_key": write, "per_sample_op": _op(name)}


def _patches(read: str, write: str, width: int) -> dict[str, Any]:
    return {
        "_target_": FLEXTOK + "preprocessors.patching.PatchEmbedder",
        "input_tensor_list_read_key": read,
        "patches_list_write_key": write,
        "n_patches_write_key": f"{write}_count",
        "channels_in": LATENT,
        "dim": width,
        "patch_sizes": [2, 2],
        "flatten_patches": False,
    }


def _positions(key: str, width: int, sizes: list[int], kind: str) -> dict[str, Any]:
    return {
        "_target_": FLEXTOK + "utils.posembs.PositionalEmbeddingAdder",
        "read_key": key,
        "write_key": key,
        "dim": width,
        "max_sizes": sizes,
        "posemb_type": kind,
        "posemb_scaling": "absolute",
    }


@dataclass(frozen=True)
class Shape:
    """What the models of the zoo differ in, and what their configurations may hold."""

    encoder: tuple[int, int] = (64, 2)  # width, depth
    decoder: tuple[int, int] = (64, 2)
    tokens: int = 256
    expansion: int = 2  # adaptive norms: 1, or 2 for patches and registers apart
    checkpoint: bool = False  # blocks wrapped for training


D18_D28 = Shape((18 * 64, 18), (28 * 64, 28))  # the largest of the zoo, used by the first experiments


def _trunk(
    side: str, keys: list[str], size: tuple[int, int], mode: str, checkpoint: bool, condition: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """Packer, transformer and unpacker of one side ("enc" or "dec")."""
    packing = {}
    if condition:
        apart = condition["adaLN_expansion"] == 2
        packing = {"emb_packing_fn_write_key": f"{side}_packing_fn", "per_subseq_embs": apart}
    shapes = {f"{part}_packed_shapes": f"{side}_ps_{part}" for part in ("inner", "outer")}
    return {
        f"{side}_seq_packer": {
            "_target_": FLEXTOK + "preprocessors.flex_seq_packing.BlockWiseSequencePacker",
            "input_list_read_keys": keys,
            "packed_seq_write_key": f"{side}_packed",
            "block_mask_write_key": f"{side}_mask",
            **{f"{name}_write_key": key for name, key in shapes.items()},
            "mask_mode": mode,
            "pad_to_multiple": 128,
            "compile_block_mask": False,
            **packing,
        },
        f"{side}_transformer": {
            "_target_": FLEXTOK + "trunks.transformers.FlexTransformer",
            "input_seq_read_key": f"{side}_packed",
            "output_seq_write_key": f"{side}_packed",
            "dim": size[0],
            "depth": size[1],
            "block_mask_read_key": f"{side}_mask",
            "use_act_checkpoint": checkpoint,
            **condition,
        },
        f"{side}_unpacker": {
            "_target_": FLEXTOK + "postprocessors.seq_unpacking.SequenceUnpacker",
            "packed_seq_read_key": f"{side}_packed",
            "inner_seq_write_keys": keys,
            **{f"{name}_read_key": key for name, key in shapes.items()},
        },
    }


def config(shape: Shape, vae: Path | None) -> dict[str, Any]:
    """The configuration of a FlexTok for 256 x 256 images and tokens of 64,000; the VAE is a saved one, or of real
    size where `vae` is None."""
    tokens, width, decoder_width = shape.tokens, shape.encoder[0], shape.decoder[0]
    read_vae = {
        "_target_": "flextok.vae_wrapper.StableDiffusionVAE",
        "images_read_key": "rgb",
        "vae_latents_read_key": "latents_out",
        "vae_latents_write_key": "latents",
        "images_reconst_write_key": "rgb_out",
        "vae_kl_loss_write_key": "kl",
        "latent_channels": LATENT,
        "scaling_factor": 1.0,
        "dtype_override": "fp32",
        "hf_hub_path": vae and str(vae),
        "compile_encode_fn": False,
        "force_vae_encode": False,
        "frozen": True,
    }
    levels = [8, 8, 8, 5, 5, 5]
    head = {"use_mup_readout": False, "weight_init_style": "xavier", "dtype_override": "fp32"}
    encoder = _chain(
        enc_to_last=_permute("latents", "latents_last", "channels_first_to_last"),
        enc_patch_emb=_patches("latents_last", "enc_patches", width),
        enc_posemb_module=_positions("enc_patches", width, [16, 16], "sincos"),
        enc_register_module={
            "_target_": FLEXTOK + "preprocessors.registers.Registers1D",
            "input_tensor_list_read_key": "enc_patches",
            "register_sizes_read_write_key": "register_sizes",
            "registers_write_key": "enc_registers",
            "dim": width,
            "n_min": tokens,
            "n_max": tokens,
            "size_sampling_mode": "uniform",
            "ordering_mode": "nested",
        },
        **_trunk("enc", ["enc_patches", "enc_registers"], shape.encoder, "causal_last", shape.checkpoint, {}),
        enc_to_latents={
            "_target_": FLEXTOK + "postprocessors.heads.LinearHead",
            "read_key": "enc_registers",
            "write_key": "enc_latents",
            "dim": width,
            "dim_out": len(levels),
            **head,
        },
    )
    condition = {
        "adaLN_emb_read_key": "time",
        "adaLN_packing_fn_read_key": "dec_packing_fn",
        "adaLN_expansion": shape.expansion,
    }
    decoder = _chain(
        dec_from_latents={
            "_target_": FLEXTOK + "preprocessors.linear.LinearLayer",
            "read_key": "codes",
            "write_key": "dec_codes",
            "dim_in": len(levels),
            "dim": decoder_width,
        },
        dec_positions=_positions("dec_codes", decoder_width, [tokens], "learnable_sum"),
        dec_nested_dropout={
            "_target_": FLEXTOK + "preprocessors.token_dropout.MaskedNestedDropout",
            "read_write_key": "dec_codes",
            "dim": decoder_width,
            "eval_keep_k_read_key": "eval_keep_k",
            "train_keep_k_write_key": "train_keep_k",
            "size_sampling_mode": "uniform",
        },
        dec_null={
            "_target_": FLEXTOK + "preprocessors.nullcond.LearnedNullCond",
            "read_write_key": "dec_codes",
            "dim": decoder_width,
            "dropout_prob": 0.2,
        },
        dec_to_last=_permute("noised", "noised_last", "channels_first_to_last"),
        dec_patch_emb=_patches("noised_last", "dec_patches", decoder_width),
        dec_patch_positions=_positions("dec_patches", decoder_width, [16, 16], "sincos"),
        dec_time={
            "_target_": FLEXTOK + "preprocessors.time_embedding.TimestepEmbedder",
            "timesteps_read_key": "timesteps",
            "time_embedding_write_key": "time",
            "dim": decoder_width,
            "max_timestep": 1.0,
        },
        **_trunk("dec", ["dec_patches", "dec_codes"], shape.decoder, "full", shape.checkpoint, condition),
        dec_to_patches={
            "_target_": FLEXTOK + "postprocessors.heads.ToPatchesLinearHead",
            "read_key": "dec_patches",
            "write_key": "latents_out_last",
            "dim": decoder_width,
            "channels_out": LATENT,
            "patch_sizes": [2, 2],
            "adaLN_emb_read_key": "time",
            **head,
        },
        dec_to_first=_permute("latents_out_last", "latents_out", "channels_last_to_first"),
    )
    return {
        "vae": read_vae,
        "encoder": encoder,
        "decoder": decoder,
        "regularizer": {
            "_target_": "flextok.regularizers.quantize_fsq.FSQ",
            "latents_read_key": "enc_latents",
            "quants_write_key": "codes",
            "tokens_write_key": "tokens",
            "levels": levels,
            "packed_call": True,
        },
        "flow_matching_noise_module": {
            "_target_": "flextok.flow_matching.noise_modules.MinRFNoiseModule",
            "clean_images_read_key": "latents",
            "noised_images_write_key": "noised",
            "timesteps_write_key": "timesteps",
            "sigmas_write_key": "sigmas",
        },
        "pipeline": {
            "_target_": "flextok.flow_matching.pipelines.MinRFPipeline",
            "_partial_": True,
            "latents_read_key": "codes",
            "timesteps_read_key": "timesteps",
            "noised_images_read_key": "noised",
            "reconst_write_key": "latents_out",
            "out_channels": LATENT,
        },
    }


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
