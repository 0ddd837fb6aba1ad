"""Fitting the metric of the kernel n-gram to training images, and keeping the fit beside their index."""

import contextlib
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import Parameter
from tqdm import tqdm, trange

from imagegram.cli import UserError
from imagegram.codec.fsq import fsq_digits
from imagegram.files import atomic
from imagegram.index.folder import Index
from imagegram.machine import single_threads
from imagegram.samplers.kernel.model import Kernel, digits_of
from imagegram.samplers.kernel.votes import Library, sequences_at_once

FORMAT = 3  # of the stored fit; another one is fitted again
LEAST_IMAGES = 20  # fewer cannot tell one width from another
STEPS = 120  # of the optimizer, at most
PASSES = 6  # times that a training image is predicted, at most: fewer images are learned by heart if seen more often
BATCH = 64  # training images predicted in a step
LIBRARY = 16_384  # training images that predict in a step, at most
LONG_BATCH = 16  # the same for images whose tokens share numbers, which has each step see
LONG_LIBRARY = 4096
LATER_PLACES = 48  # of the places that share them, drawn anew
PLACES_AT_ONCE = 12  # of the gradient, the share of a thread: bounds its memory
LEARNING_RATE = 0.07
NARROWER = 1.25  # times the weights of the metric, one try after another, where the corpus is larger than the library


def fit(
    tokens: NDArray[np.uint16],
    levels: tuple[int, ...],
    device: torch.device,
    seed: int = 0,
    kind: type[Kernel] = Kernel,
    steps: int = 0,
) -> Kernel:
    """Fit a kernel to training images [N, L] by their leave-one-out likelihood, with a progress line.

    A step predicts BATCH of them from a random LIBRARY of the others, so that its cost does not grow with N. Where N is
    much larger, nearer images are to be found, and the metric is narrowed to them in the end. Where N is small, fewer
    steps are taken: 120 of them on 100 digits predicted other training digits with 10.0 bits a token, 9 with 7.6.
    `steps`: at most; 0: STEPS.
    """
    n = len(tokens)
    if n < LEAST_IMAGES:
        raise UserError(
            f"the kernel sampler is fitted to at least {LEAST_IMAGES} indexed images, there are {n}: tokenize more, or "
            "take another sampler, aligned or ntd for example"
        )
    model = kind(levels, tokens.shape[1]).to(device)
    _count_unigram(model, tokens)
    size = min(n, LONG_LIBRARY if model.shared else LIBRARY)
    batch = min(LONG_BATCH if model.shared else BATCH, size)
    rng = np.random.default_rng(seed)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trained, LEARNING_RATE)
    steps = min(steps or STEPS, -(-PASSES * n // batch))
    with _threads(device) as pool:
        bar = trange(steps, desc="fitting the kernel", unit="step")
        for number in bar:
            remaining = 1 - number / steps
            for group in optimizer.param_groups:
                group["lr"] = LEARNING_RATE * min(1.0, remaining / 0.4)
            digits = digits_of(tokens[rng.choice(n, size, replace=False)], levels, device)
            parts = _places_of_a_step(model, rng)
            results = list(pool.map(lambda part, digits=digits: _gradient(model, trained, digits, batch, *part), parts))
            # The same sum, however many threads there are.
            for parameter, *gradients in zip(trained, *(gradients for _, gradients in results), strict=True):
                parameter.grad = torch.stack(gradients).sum(0)
            optimizer.step()
            bits = sum(bits for bits, _ in results) / tokens.shape[1]
            bar.set_postfix_str(f"{bits:.2f} bits a token, left out")
    model.requires_grad_(False).eval()
    if n > 2 * size:
        _narrow(model, tokens, rng)
    return model


@contextlib.contextmanager
def _threads(device: torch.device) -> Iterator[ThreadPoolExecutor]:
    """Threads that each do operations of their own: most are too short to be shared between two cores."""
    with single_threads() as threads, ThreadPoolExecutor(threads if device.type == "cpu" else 1) as pool:
        yield pool


def _gradient(
    model: Kernel, trained: list[Parameter], digits: Tensor, batch: int, places: Sequence[int], times: float
) -> tuple[float, tuple[Tensor, ...]]:
    """The bits of the first `batch` of `digits` [N, F] at some places, each left out, and gradients of `trained`."""
    own = torch.arange(batch, device=digits.device)
    bits = -times * model.log2_probabilities(digits[:batch], digits, places, own).sum(1).mean()
    return bits.item(), torch.autograd.grad(bits, trained)


def _narrow(model: Kernel, tokens: NDArray[np.uint16], rng: np.random.Generator) -> None:
    """Narrow a metric that was fitted to a library to the denser corpus [N, L] that it was drawn from.

    All weights are multiplied by one number, as long as that lowers the leave-one-out bits of a batch of training
    images, each predicted from all N - 1 others.
    """
    batch = LONG_BATCH if model.shared else BATCH
    rows = torch.from_numpy(rng.choice(len(tokens), batch, replace=False))
    library = Library(tokens, model)
    best = math.inf
    with tqdm(desc="narrowing it to all images", unit="try") as bar:
        while True:
            parts = rows.split(sequences_at_once(len(tokens)))
            bits = sum(_left_out_bits(library, tokens, part) for part in parts) / tokens[rows].size
            bar.update()
            if bits >= best:
                break
            best = bits
            bar.set_postfix_str(f"{bits:.2f} bits a token, left out")
            model.log_weights.add_(math.log(NARROWER))
    model.log_weights.sub_(math.log(NARROWER))  # the last try was one too many


@torch.inference_mode()
def _left_out_bits(library: Library, tokens: NDArray[np.uint16], rows: Tensor) -> float:
    """-log2 of the probability of some rows of `tokens` [N, L], each predicted from all others: their sum."""
    digits = digits_of(tokens[rows.numpy()], library.model.levels, library.device)
    queries = library.model.embed(digits)
    bits = 0.0
    with single_threads():
        for place in range(library.model.places):
            _, p = library.probabilities(place, queries, 1.0, rows.to(library.device))
            bits -= p.gather(1, digits[:, place : place + 1].long()).log2().sum().item()
    return bits


def _places_of_a_step(model: Kernel, rng: np.random.Generator) -> Iterator[tuple[list[int], float]]:
    """The places predicted in a step, some at a time, and how often they count.

    Of those that share their numbers a few stand for all of them.
    """
    first = model.rows if not model.shared else model.rows - model.digits
    for start in range(0, first, PLACES_AT_ONCE):
        yield list(range(start, min(start + PLACES_AT_ONCE, first))), 1.0
    if model.shared:
        later = model.places - first
        few = min(LATER_PLACES, later)
        yield sorted(first + rng.choice(later, few, replace=False)), later / few


def _count_unigram(model: Kernel, tokens: NDArray[np.uint16]) -> None:
    """Set the share of each digit at each place, of at most LIBRARY * 4 evenly spaced images."""
    few = tokens[:: -(-len(tokens) // (4 * LIBRARY))]
    digits = fsq_digits(few, model.levels).reshape(len(few), -1)
    for place in range(model.places):
        counts = np.bincount(digits[:, place], minlength=model.codes.shape[1]) + 0.1
        counts *= model.allowed[model.row(place)].cpu().numpy()
        model.unigram[place] = torch.from_numpy(counts / counts.sum())


def fit_file(index: Index) -> Path:
    """Where the fit of an index is kept: beside it."""
    return index.path.parent / f"{index.path.name}-kernel.safetensors"


def open_kernel(index: Index, device: torch.device, steps: int = 0) -> Kernel:
    """The kernel fitted to `index`: read from beside it, or fitted now, in `steps` (0: STEPS), and written there.

    UserError where the codec has no FSQ levels, or the images are too few.
    """
    if not index.levels:
        raise UserError(f"the codec {index.codec!r} has no FSQ levels: the kernel sampler needs their digits")
    file = fit_file(index)
    if file.exists():
        with safe_open(file, "pt") as f:
            if f.metadata() == _made_from(index):
                model = Kernel(index.levels, index.tokens_per_image)
                model.load_state_dict({name: f.get_tensor(name) for name in f.keys()})  # noqa: SIM118
                return model.to(device).requires_grad_(False).eval()
    model = fit(index.tokens, index.levels, device, steps=steps)
    with atomic(fit_file(index)) as temporary:
        save_file(model.state_dict(), temporary, _made_from(index))
    return model


def _made_from(index: Index) -> dict[str, str]:
    return {"index": str(index.identity), "format": str(FORMAT)}
