"""FlexToks of any size with random weights, also saved as the hub would hold them."""

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


# the largest of the zoo, used by the first experiments
D18_D28 = Shape((18 * 64, 18), (28 * 64, 28))
CONFIG = Path(__file__).with_name("flextok.yaml")  # as the hub has them, in short


def config(shape: Shape, vae: Path | None) -> dict[str, Any]:
    """The configuration of a FlexTok for 256 x 256 images and tokens of 64,000; the VAE is a saved
    one, or of real size where `vae` is None."""
    sizes = [*shape.encoder, *shape.decoder, shape.tokens, shape.expansion]
    names = ("enc_width", "enc_depth", "dec_width", "dec_depth", "tokens", "expansion")
    values: dict[str, Any] = dict(zip(names, sizes, strict=True))
    flags = {"checkpoint": shape.checkpoint, "apart": shape.expansion == 2, "vae": vae and str(vae)}
    values |= {name: json.dumps(value) for name, value in flags.items()}
    text = Template(CONFIG.read_text()).substitute(values)

    def target(at: re.Match[str]) -> str:
        return "_target_: flextok." + "model." * len(at[1])

    return yaml.safe_load(re.sub(r"_target_: (?!hydra)(\.?)", target, text))


def randomize(model: Any) -> Any:
    """Random weights everywhere: zero heads and norms would make every token the same."""
    rng = torch.Generator(model.device).manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith("vae.") and parameter.requires_grad:
                scale = 0.1 if parameter.ndim < 2 else parameter.shape[-1] ** -0.5
                scale = 0.5 if parameter.ndim >= 2 and "register" in name else scale
                parameter.normal_(0, scale, generator=rng)
    return model.eval()


def save_random_flextok(folder: Path, shape: Shape = Shape()) -> Path:
    """Write a random FlexTok with a tiny VAE to `folder`, loadable with
    FlexTokFromHub.from_pretrained."""
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
