"""The dense path as it would run on a GPU: on tensors that have a shape and a device but no values.

On these, whatever asks for a value (`.item()`, `if tensor:`, `int(tensor)`), for which a program
has to wait for its GPU, raises an error, and so does an operation whose inputs lie on two devices.
"""

import copy
import importlib.util
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.support.random_flextok import save_random_flextok
from tests.support.tensors import replace_tensors

if importlib.util.find_spec("flextok") is None:
    pytest.skip(
        "the flextok package is not installed (requirements-flextok.txt)", allow_module_level=True
    )

from flextok.flextok_wrapper import FlexTokFromHub
from flextok.model.preprocessors.time_embedding import TimestepEmbedder

from imagegram.codec import flextok_blocks
from imagegram.codec.flextok_dense import FastDecoder, FastEncoder

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
BATCH = 4


class Recorder(TorchDispatchMode):
    """Writes down every operation with the shapes and devices of its results, and what travels back
    to the host."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[tuple[str, list[tuple[int, ...]]]] = []
        self.on_host: set[str] = set()
        self.came_back: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        outputs = [x for x in tree_leaves(result) if isinstance(x, Tensor)]
        inputs = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        self.done.append((str(func), [tuple(x.shape) for x in outputs]))
        if any(x.device.type == "cpu" for x in outputs):
            self.on_host.add(str(func))
            if any(x.device.type == "cuda" for x in inputs):
                self.came_back.append(str(func))
        return result


def move(module: nn.Module, *target: Any, memory_format: object = None) -> nn.Module:
    """nn.Module.to, which does not know how to replace tensors without values."""

    def moved(x: Tensor) -> Tensor:
        kept = not target or (isinstance(target[0], torch.dtype) and not x.is_floating_point())
        return x if kept else x.to(*target)

    replace_tensors(module, moved)
    return module


def waves(self: object, times: Tensor, dim: int, max_period: int = 256) -> Tensor:
    """The package's sines and cosines of the time; it asks for a value, which is allowed on the
    host alone."""
    assert times.device.type == "cpu"
    return torch.zeros(len(times), dim)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A random FlexTok on a GPU that does not exist. Its tensors have no values from here on."""
    folder = save_random_flextok(tmp_path_factory.mktemp("flextok"))
    real = FlexTokFromHub.from_pretrained(folder).eval()
    copied = copy.deepcopy

    def share_tensors(module: nn.Module) -> nn.Module:
        return copied(module, {id(x): x for x in (*module.parameters(), *module.buffers())})

    with pytest.MonkeyPatch.context() as patch, FakeTensorMode() as mode:
        patch.setattr(nn.Module, "to", move)
        patch.setattr(flextok_blocks.copy, "deepcopy", share_tensors)
        patch.setattr(TimestepEmbedder, "timestep_embedding", waves)
        replace_tensors(real, lambda x: mode.from_tensor(x).to("cuda"))
        yield real


def on_gpu(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(*shape, dtype=dtype, device="cuda")


def test_a_value_that_is_asked_for_is_noticed(model: Any) -> None:
    for asks in (int, bool):
        with pytest.raises(DataDependentOutputException):
            asks(on_gpu(3).max())
    with pytest.raises(RuntimeError, match="same device"):
        on_gpu(3) + torch.empty(3)


@pytest.mark.parametrize("dtype", DTYPES)
def test_tokenizing_never_waits_for_the_gpu(model: Any, dtype: torch.dtype) -> None:
    encoder = FastEncoder(model, dtype)
    with Recorder() as seen:
        tokens = encoder.tokens(on_gpu(BATCH, 3, 256, 256, dtype=torch.uint8))
    assert (tokens.shape, tokens.dtype, tokens.device.type) == ((BATCH, 256), torch.int64, "cuda")
    assert not seen.on_host
    assert len(seen.done) > 100


@pytest.mark.parametrize("dtype", DTYPES)
def test_decoding_never_waits_for_the_gpu(model: Any, dtype: torch.dtype) -> None:
    decoder = FastDecoder(model, dtype)
    tokens, noise = on_gpu(BATCH, 256, dtype=torch.int64), on_gpu(BATCH, 16, 32, 32)
    for kept in ([256] * BATCH, [3, 70, 1, 9]):
        for scale in (1.0, 7.5):
            with Recorder() as seen:
                images = decoder.images(tokens, kept, noise, 3, scale)
            assert (images.shape, images.dtype) == ((BATCH, 3, 256, 256), torch.float32)
            assert images.device.type == "cuda"
            assert not seen.came_back


def test_shapes_stay_the_same_from_batch_to_batch(model: Any) -> None:
    """Every shape is compiled anew: prefixes of 75 and of 100 tokens share theirs."""
    decoder = FastDecoder(model)
    tokens, noise = on_gpu(BATCH, 256, dtype=torch.int64), on_gpu(BATCH, 16, 32, 32)
    done = {}
    for longest in (75, 100, 200):
        decoder.images(tokens, [longest] * BATCH, noise, 2, 7.5)  # makes the schedule
        with Recorder() as seen:
            decoder.images(tokens, [longest, 1, 2, 3], noise, 2, 7.5)
        done[longest] = seen.done
    assert done[75] == done[100]
    assert done[75] != done[200]
