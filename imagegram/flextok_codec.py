"""The real FlexTok (Bachmann et al., 2025, arXiv:2502.13967) behind the codec interface: the stock call.

Its `tokenize` and `detokenize` run as they are, with what they leave to the caller decided here: eval mode, inference
mode, the posterior mean of the VAE (the class default samples it, and gives other tokens each time), noise drawn for
each image from a seed of its own (the stock generator makes an image depend on its place in the batch), batches
padded to one size (every new size compiles FlexAttention again), and plain attention where there is no GPU.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imagegram.common import UserError, sha256

NOISE = "imagegram_noise"  # the key under which the pipeline finds the noise


def load(name: str) -> "FlexTokCodec":
    """Load a FlexTok from the Hugging Face hub or a local folder; UserError says what to install or change."""
    local = Path(name).exists()
    if not local and (name.startswith((".", "/")) or name.count("/") != 1):
        raise UserError(f"unknown codec {name!r}: tiny, a FlexTok on the hub (OWNER/NAME) or a local FlexTok folder")
    try:
        from flextok.flextok_wrapper import FlexTokFromHub
    except ImportError as error:
        raise UserError(
            f"the codec {name!r} needs the flextok package ({error}): "
            ".venv/bin/uv pip install -r requirements-flextok.txt, or use --codec tiny"
        ) from None
    folder = Path(name) if local else _download(name)
    if not (folder / "config.json").exists():
        raise UserError(f"{folder} holds no FlexTok: config.json is missing")
    # The commit of the hub names its folder; a local one is known by its weights.
    revision = sha256(next(folder.glob("*.safetensors")))[:16] if local else folder.name
    return FlexTokCodec(name, revision, FlexTokFromHub.from_pretrained(folder))


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(name))
    except RepositoryNotFoundError:
        raise UserError(f"there is no model {name!r} on the Hugging Face hub") from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError):
        raise UserError(
            f"cannot reach the Hugging Face hub for {name!r}, and it is not in the cache: "
            "connect, give a local folder, or use --codec tiny"
        ) from None


class FlexTokCodec:
    """A loaded FlexTok on the best device, in float32."""

    precision = "float32"
    timesteps = 20
    guidance_scale = 7.5

    def __init__(self, name: str, revision: str, model: Any):
        self.name, self.revision = name, revision
        cuda = torch.cuda.is_available()
        self.device = torch.device("cuda" if cuda else "cpu")
        reason = torch.cuda.get_device_name() if cuda else "no CUDA GPU: use a GPU, or expect seconds for each image"
        print(f"codec {name} on {self.device} in {self.precision} ({reason})")
        self.model = model.eval().to(self.device)
        model.vae.sample_posterior = False
        model.pipeline.noise_read_key = NOISE
        if not cuda:
            _use_plain_attention(model)
        self.levels = tuple(model.regularizer._levels.tolist())
        self.vocab_size = int(model.regularizer.codebook_size)
        self.tokens_per_image = int(model.encoder.module_dict["enc_register_module"].n_max)
        self.latent_size = int(model.encoder.module_dict["enc_posemb_module"].max_sizes[0]) * 2  # patches of 2 x 2
        self.image_size = self.latent_size * int(model.downsample_factor)
        self.batch = 0  # the size that batches are padded to: that of the largest so far

    def _pad(self, items: list[Any]) -> list[Any]:
        self.batch = max(self.batch, len(items)) if self.device.type == "cuda" else len(items)
        return items + [items[-1]] * (self.batch - len(items))

    @torch.inference_mode()
    def encode(self, images: Tensor) -> NDArray[np.uint16]:
        n = len(images)
        batch = torch.stack(self._pad(list(images))).to(self.device).float() / 127.5 - 1
        try:
            tokens = torch.cat(self.model.tokenize(batch))[:n]
        except torch.OutOfMemoryError:
            raise _out_of_memory(n) from None
        return tokens.cpu().numpy().astype(np.uint16)

    @torch.inference_mode()
    def decode(
        self, tokens: Sequence[NDArray[np.uint16]], seeds: Sequence[int], timesteps: int, guidance_scale: float
    ) -> Tensor:
        ids = [torch.from_numpy(np.asarray(t, np.int64))[None].to(self.device) for t in tokens]
        shape = 1, self.model.pipeline.out_channels, self.latent_size, self.latent_size
        noise = [torch.randn(shape, generator=torch.Generator().manual_seed(s)).to(self.device) for s in seeds]
        data = self.model._prepare_data_dict_for_detokenization(self._pad(ids))
        data[NOISE] = self._pad(noise)
        try:
            data = self.model.decode(
                data,
                timesteps=timesteps,
                vae_image_sizes=self.latent_size,
                verbose=False,
                guidance_scale=guidance_scale,
                perform_norm_guidance=True,
            )
        except torch.OutOfMemoryError:
            raise _out_of_memory(len(ids)) from None
        images = torch.cat(data[self.model.image_write_key])[: len(ids)]
        return ((images.clamp(-1, 1) + 1) * 127.5).round().byte().cpu()


def _out_of_memory(batch: int) -> UserError:
    return UserError(f"the GPU's memory does not hold a batch of {batch}: try --batch-size {max(1, batch // 2)}")


def _use_plain_attention(model: Any) -> None:
    """FlexAttention needs a GPU or a compiler: attend with a materialized mask, (512 x batch)^2 entries large."""
    from flextok.model.layers.attention import FlexAttention
    from flextok.model.preprocessors.flex_seq_packing import BlockWiseSequencePacker

    for module in model.modules():
        if isinstance(module, FlexAttention):
            module.use_flex_attention = False
        elif isinstance(module, BlockWiseSequencePacker):
            module.return_materialized_mask = True
