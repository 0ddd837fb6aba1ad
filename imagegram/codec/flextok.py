"""The real FlexTok (Bachmann et al., 2025, arXiv:2502.13967) behind the codec interface.

Tokens and images come from the dense path of flextok_dense.py; a model that it does not cover runs
through the package's own calls, and prints a line saying so. What the package leaves to the caller
is decided here: eval mode, inference mode, the mean of the VAE's posterior (the class default
samples it, and gives other tokens each time), noise drawn for each image from a seed of its own
(the package's generator makes an image depend on its place in the batch), and batches padded to one
size, since every size is compiled anew.

On a CUDA GPU tokens are computed in float16 and images in bfloat16; an image that overflows float16
is tokenized again in TF32. On a CPU everything is float32. In half precision a token near the
border of two levels can come out as its neighbour, and where the borders fall also depends on the
GPU and the batch size: benchmarks/bench_flextok.py measures how often.
"""

import contextlib
import functools
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imagegram.cli import UserError
from imagegram.codec import miniatures
from imagegram.codec.sizes import ZOO, check_name
from imagegram.data.preprocess import to_bytes, to_signed
from imagegram.files import sha256
from imagegram.machine import choose_device
from imagegram.tokens import MAX_VOCAB, SEPARATOR, Prefixes

# On a GPU. Bfloat16 has the range of float32, but too few digits for the borders of tokens.
ENCODE_DTYPE = torch.float16
DECODE_DTYPE = torch.bfloat16
CPU_BATCH = 8  # images at a time on a CPU: more only take memory
STOCK_CPU_BATCH = 2  # of the package's calls, see `use_plain_attention`
NOISE = "imagegram_noise"  # the key under which the package's pipeline finds the noise


def load(name: str, revision: str = "") -> "FlexTokCodec":
    """Load a FlexTok of the Hugging Face hub or of a local folder, see `load_codec`.

    The package builds a model from the classes that its configuration names, whichever they are:
    load repositories that you trust, at a revision that you have seen.
    """
    local = Path(name).exists()
    if not local:
        name, _, given = name.partition("@")
        revision = given or revision
        check_name(name)
    try:
        import flextok.flextok_wrapper  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"the codec {name!r} needs the flextok package ({error}): "
            ".venv/bin/uv pip install -r requirements-flextok.txt, or use --codec tiny"
        ) from None
    folder = Path(name) if local else _download(name, revision)
    weights = sorted(folder.glob("*.safetensors"))
    if not (folder / "config.json").exists() or not weights:
        raise UserError(
            f"{folder} holds no FlexTok: config.json or a .safetensors file is missing; nor "
            f"{miniatures.WEIGHTS}, as train_tiny_flextok.py writes it"
        )
    return _loaded(name, folder, weights[0], weights[0].stat().st_mtime_ns, local)


# one run opens its codec for every sampler: loaded and compiled once
@functools.lru_cache(maxsize=1)
def _loaded(name: str, folder: Path, weights: Path, written: int, local: bool) -> "FlexTokCodec":
    """The model in `folder`, whose weights were `written` at that time."""
    from flextok.flextok_wrapper import FlexTokFromHub

    # The commit of the hub names its folder; a local one is known by its weights.
    revision = sha256(weights)[:16] if local else folder.name
    return FlexTokCodec(name, revision, FlexTokFromHub.from_pretrained(folder))


def _download(name: str, revision: str) -> Path:
    """The folder of a model in the hub's cache, named by its commit."""
    from huggingface_hub import errors, snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision or None))
    except errors.RevisionNotFoundError:
        raise UserError(
            f"the model {name!r} has no revision {revision!r} on the Hugging Face hub"
        ) from None
    except errors.RepositoryNotFoundError:
        raise UserError(
            f"there is no model {name!r} on the Hugging Face hub; FlexTok's are {', '.join(ZOO)}"
        ) from None
    except (errors.LocalEntryNotFoundError, errors.HfHubHTTPError, OSError):
        at = f" at revision {revision}" if revision else ""
        raise UserError(
            f"cannot reach the Hugging Face hub for {name!r}, and it is not in the cache{at}: "
            "connect, give a local folder, or use --codec tiny"
        ) from None


@contextlib.contextmanager
def oom_as_user_error(batch: int, remedy: str) -> Iterator[None]:
    """Turn running out of memory into one line that names the batch size to use."""
    try:
        yield
    except RuntimeError as error:
        # the CPU's allocator has no class of its own
        on_cpu = "DefaultCPUAllocator" in str(error)
        if not (on_cpu or isinstance(error, torch.OutOfMemoryError)):
            raise
        raise UserError(
            f"out of memory with a batch of {batch}: {remedy.format(max(1, batch // 2))}"
        ) from None


class FlexTokCodec:
    """A loaded FlexTok on the best device."""

    timesteps = 20
    guidance_scale = 7.5
    own_error: tuple[float, float] | None = None  # nobody measured it

    def __init__(self, name: str, revision: str, model: Any):
        self.name = name
        self.revision = revision
        self.levels = tuple(model.regularizer._levels.tolist())
        self.vocab_size = int(model.regularizer.codebook_size)
        self.tokens_per_image = int(model.encoder.module_dict["enc_register_module"].n_max)
        self.latent_size = _latent_size(model)
        self.image_size = self.latent_size * int(model.downsample_factor)
        if math.prod(self.levels) != self.vocab_size or self.vocab_size > MAX_VOCAB:
            raise UserError(
                f"{name} has {self.vocab_size} tokens of levels {self.levels}: not their product, "
                f"or above {MAX_VOCAB}"
            )
        self.device = choose_device()
        self.cuda = self.device.type == "cuda"
        self.model = model.eval().to(self.device)
        model.vae.sample_posterior = False
        model.pipeline.noise_read_key = NOISE
        self.batch = 0  # the size that batches are padded to on a GPU: that of the largest so far
        self.encoder = self._dense("FastEncoder", ENCODE_DTYPE if self.cuda else torch.float32)
        self.precision = "float16" if self.encoder and self.cuda else "float32"
        if os.environ.get("RANK", "0") == "0":
            slow = "no CUDA GPU: expect seconds for each image"
            gpu = torch.cuda.get_device_name(self.device) if self.cuda else slow
            print(f"codec {name} on {self.device} in {self.precision} ({gpu})")

    def _dense(self, part: str, dtype: torch.dtype) -> Any:
        """A half of the dense path, or None with one line where it does not cover this model."""
        try:
            from imagegram.codec import flextok_dense

            return getattr(flextok_dense, part)(self.model, dtype, compiled=self.cuda)
        # also what another version has elsewhere
        except (ImportError, AttributeError, NotImplementedError) as error:
            print(
                f"{part} does not cover {self.name} ({error}): the package's own calls are used, "
                "which are slower"
            )
            if not self.cuda:
                use_plain_attention(self.model)
            return None

    @functools.cached_property
    def decoder(self) -> Any:
        lower = self.cuda and torch.cuda.is_bf16_supported(including_emulation=False)
        return self._dense("FastDecoder", DECODE_DTYPE if lower else torch.float32)

    @functools.cached_property
    def exact_encoder(self) -> Any:
        """For images that overflow float16. Not compiled: it is rarely needed."""
        from imagegram.codec.flextok_dense import FastEncoder

        return FastEncoder(self.model)

    def _current(self) -> contextlib.AbstractContextManager[object]:
        """Makes the codec's GPU the current one: that is a setting of each thread."""
        if self.device.type == "cuda":
            return torch.cuda.device(self.device)
        return contextlib.nullcontext()

    def _chunk(self, fast: Any) -> int:
        """Images at a time."""
        return 1 << 30 if self.cuda else CPU_BATCH if fast else STOCK_CPU_BATCH

    def _padded(self, x: Tensor) -> Tensor:
        """A batch on the device, on a GPU filled up with copies of its last row."""
        if self.cuda:
            self.batch = max(self.batch, len(x))
            x = torch.cat([x, x[-1:].expand(self.batch - len(x), *x.shape[1:])])
        return x.to(self.device)

    @torch.inference_mode()
    def encode(self, images: Tensor) -> NDArray[np.uint16]:
        parts = images.split(self._chunk(self.encoder))
        with self._current(), oom_as_user_error(len(images), "try --batch-size {}"):
            return np.concatenate([self._tokens(part) for part in parts])

    def _tokens(self, images: Tensor) -> NDArray[np.uint16]:
        """Pixels travel as bytes, tokens come back as uint16 in one copy."""
        batch = self._padded(images)
        if not self.encoder:
            return self._uint16(torch.cat(self.model.tokenize(to_signed(batch))))[: len(images)]
        tokens = self._uint16(self.encoder.tokens(batch))
        overflown = (tokens[: len(images)] == SEPARATOR).any(1)
        if overflown.any() and self.precision != "float32":
            with _tf32():
                exact = self._uint16(self.exact_encoder.tokens(batch))
            tokens[: len(images)][overflown] = exact[: len(images)][overflown]
        return tokens[: len(images)]

    def _uint16(self, tokens: Tensor) -> NDArray[np.uint16]:
        """Ids outside the vocabulary become SEPARATOR, which no token folder takes."""
        if tokens.shape[1] != self.tokens_per_image:
            raise UserError(
                f"{self.name} made {tokens.shape[1]} tokens an image, not {self.tokens_per_image}"
            )
        inside = (tokens >= 0) & (tokens < self.vocab_size)
        return torch.where(inside, tokens, SEPARATOR).to(torch.uint16).cpu().numpy()

    @torch.inference_mode()
    def decode(
        self, tokens: Prefixes, seeds: Sequence[int], timesteps: int, guidance_scale: float
    ) -> Tensor:
        most = min(len(tokens), self._chunk(self.decoder))
        images: list[Tensor] = []
        with self._current(), oom_as_user_error(1, "use a GPU with more memory"):
            while (done := sum(map(len, images))) < len(tokens):
                part = slice(done, done + most)
                try:
                    found = self._images(tokens[part], seeds[part], timesteps, guidance_scale)
                    images.append(to_bytes(found).cpu())
                except torch.OutOfMemoryError:
                    if most == 1:
                        raise
                    # An image has its own noise, and does not depend on its batch.
                    most = most // 2
                    self.batch = 0
        return torch.cat(images)

    def _images(
        self, tokens: Prefixes, seeds: Sequence[int], timesteps: int, guidance_scale: float
    ) -> Tensor:
        """Images [B, 3, S, S] about [-1, 1]; noise is drawn on the CPU."""
        kept = [len(row) for row in tokens]
        if not all(0 < k <= self.tokens_per_image for k in kept):
            raise UserError(
                f"{self.name} decodes 1 to {self.tokens_per_image} tokens, not {min(kept)} to "
                f"{max(kept)}"
            )
        shape = self.model.pipeline.out_channels, self.latent_size, self.latent_size
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        noise = self._padded(torch.stack([torch.randn(shape, generator=g) for g in generators]))
        ids = torch.zeros(len(kept), self.tokens_per_image, dtype=torch.long)
        for row, prefix in zip(ids, tokens, strict=True):
            row[: len(prefix)] = torch.from_numpy(prefix.astype(np.int64))
        ids = self._padded(ids)
        kept += kept[-1:] * (len(ids) - len(kept))
        if self.decoder:
            return self.decoder.images(ids, kept, noise, timesteps, guidance_scale)[: len(tokens)]
        prefixes = [row[None, :k] for row, k in zip(ids, kept, strict=True)]
        data = self.model._prepare_data_dict_for_detokenization(prefixes)
        data[NOISE] = list(noise.split(1))
        options = {"vae_image_sizes": self.latent_size, "guidance_scale": guidance_scale}
        options |= {"perform_norm_guidance": True, "verbose": False}
        data = self.model.decode(data, timesteps=timesteps, **options)
        return torch.cat(list(data[self.model.image_write_key]))[: len(tokens)]


def _latent_size(model: Any) -> int:
    """Height and width of the latents: the decoder's grid of patches times their size."""
    modules = model.decoder.module_dict.values()
    # a grid has two sizes, registers have one
    grid = next(m for m in modules if len(getattr(m, "max_sizes", ())) == 2)
    embed = next(m for m in modules if hasattr(m, "patch_sizes"))
    return int(grid.max_sizes[0]) * int(embed.patch_sizes[0])


@contextlib.contextmanager
def _tf32() -> Iterator[None]:
    """Matrix products of float32 in TF32, on tensor cores."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def use_plain_attention(model: Any) -> None:
    """FlexAttention needs a GPU or a compiler: attend with a mask of (512 x batch)^2 entries."""
    from flextok.model.layers.attention import FlexAttention
    from flextok.model.preprocessors.flex_seq_packing import BlockWiseSequencePacker

    for module in model.modules():
        if isinstance(module, FlexAttention):
            module.use_flex_attention = False
        elif isinstance(module, BlockWiseSequencePacker):
            module.return_materialized_mask = True
