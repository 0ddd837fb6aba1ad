"""Fitting moved votes to training images, and keeping the fit beside their index."""

import math
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm, trange

from imagegram.cli import UserError
from imagegram.files import atomic
from imagegram.index.folder import Index
from imagegram.machine import choose_device, single_threads
from imagegram.samplers.kernel import VERSION
from imagegram.samplers.kernel import model as model_file
from imagegram.samplers.kernel import regression as regression_file
from imagegram.samplers.kernel.model import (
    FAR,
    IMAGES_A_RANK,
    LEAST_RANK,
    MOST_RANK,
    OWN_TOKENS,
    MovedVotes,
    digits_of,
    neighbours_of,
)
from imagegram.samplers.kernel.regression import principal_axes
from imagegram.samplers.matches import Tokens

SEED = 0
LEAST_IMAGES = 20  # fewer cannot tell one width from another
IMAGES_OF_ALL_ROWS = 1 << 20  # that the regressions are fitted to, of all rows together: minutes
STEPS = 200  # of the optimizer, at most
PASSES = 2.5  # times that an image is predicted, at most: oftener, few are learned by heart
BATCH = 64  # training images predicted in a step
LIBRARY = 4096  # training images that vote in a step, at most
LATER_TOKENS = 4  # of those that share numbers, the ones of a step
NEAREST = 512  # images whose offers count in a step: the context makes the others' votes small
WIDE_TOKENS = 4  # the first ones, where it does not
RATES = {"projections": 0.03, "codes": 0.02, "edges": 0.01}  # of the optimizer
RATE = 0.07  # for everything else
NARROWER = 1.2  # times the squared distances, where the index is larger than the library
POWERS = 9  # of it that are tried
NARROWED = 1 << 17  # images that vote for it, at most
NARROWED_BY = 9  # tokens that tell it, at most


def fit(
    tokens: Tokens,
    levels: tuple[int, ...],
    *,
    seed: int = SEED,
    kind: type[MovedVotes] = MovedVotes,
    rank: int = 0,
) -> MovedVotes:
    """Fit to training images [N, L] by their leave-one-out likelihood, with a progress line.

    The regression is solved; everything else follows gradients. A step predicts BATCH images from a
    random LIBRARY of the others, so that its cost does not grow with N. Where N is larger, nearer
    images are to be found, and the votes are narrowed to them in the end. `rank`: of the metrics;
    0: that of `rank_of`.
    """
    n = len(tokens)
    if n < LEAST_IMAGES:
        said = (
            f"the kernel sampler is fitted to at least {LEAST_IMAGES} indexed images, there are {n}"
        )
        remedy = "tokenize more, or take another sampler, aligned or ntd for example"
        raise UserError(f"{said}: {remedy}")
    device = choose_device()
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.permutation(n)[: IMAGES_OF_ALL_ROWS // min(tokens.shape[1], OWN_TOKENS + 1)])
    model = kind(levels, tokens.shape[1], rank or rank_of(n), len(rows)).to(device)
    model.images.copy_(torch.from_numpy(rows))
    digits = digits_of(tokens[rows], levels, device)
    # Threads that each do operations of their own: most are too short to be shared between cores.
    with (
        single_threads() as threads,
        ThreadPoolExecutor(threads if device.type == "cpu" else 1) as pool,
    ):
        _regress(model, digits, rng, pool)
        _descend(model, digits, rng, pool)
        if n > 2 * LIBRARY:
            _narrow(model, tokens, rng)
    return model.requires_grad_(False).eval()


def rank_of(images: int) -> int:
    """How many projected numbers of a context so many images can tell apart.

    >>> rank_of(1_608), rank_of(18_000)
    (12, 32)
    """
    return min(MOST_RANK, max(LEAST_RANK, images // IMAGES_A_RANK))


@torch.no_grad()
def _regress(
    model: MovedVotes, digits: Tensor, rng: np.random.Generator, pool: ThreadPoolExecutor
) -> None:
    """Solve the regressions, and start the metrics at the principal components of the contexts."""
    positions = rng.integers(OWN_TOKENS, max(model.tokens, OWN_TOKENS + 1), len(digits))
    model.positions.copy_(torch.from_numpy(positions))
    landmarks = torch.from_numpy(rng.permutation(len(digits))).to(digits.device)

    @torch.no_grad()
    def one(row: int) -> None:
        codes = model.training_codes(digits, row)
        model.leverage[row] = model.regression_at(row).fit(codes, landmarks)
        context = (codes - codes.mean(0))[:, : -model.digits]
        # Later tokens are predicted from more tokens, each of which then says less.
        scale = math.sqrt(max(0.3, 20 / 1.2**row))
        projection = model.projections[row]
        if context.shape[1] <= len(projection):
            projection.mul_(scale)
        else:
            projection.copy_(principal_axes(context, len(projection)).T * scale)

    rows_left = pool.map(one, reversed(range(model.rows)))
    list(tqdm(rows_left, total=model.rows, desc="regression of the kernel", unit="token"))


def _descend(
    model: MovedVotes, digits: Tensor, rng: np.random.Generator, pool: ThreadPoolExecutor
) -> None:
    """Follow the gradient of the leave-one-out bits of batches of `digits` uint8 [M, F]."""
    size = min(len(digits), LIBRARY)
    batch = min(BATCH, size)
    groups: list[dict[str, Any]] = [
        {"params": [each], "rate": RATES.get(name.split(".")[0], RATE)}
        for name, each in model.named_parameters()
        if each.numel() and each.requires_grad
    ]
    trained = [group["params"][0] for group in groups]
    optimizer = torch.optim.Adam(groups, RATE)
    steps = min(STEPS, math.ceil(PASSES * len(digits) / batch))
    own = range(min(model.rows, OWN_TOKENS))
    residuals = [model.residuals(digits, row, model.images) for row in own]

    def bits_and_gradients(
        few: Tensor, chosen: Tensor, task: tuple[int, float]
    ) -> tuple[float, list[Tensor]]:
        position, times = task
        if position < OWN_TOKENS:
            known = residuals[position][chosen]
        else:
            known = model.residuals(few, position, model.images[chosen])
        bits = times * left_out_bits(model, few, known, position, batch)
        found = torch.autograd.grad(bits, trained, allow_unused=True)
        zero = torch.zeros((), device=few.device)
        return bits.item(), [zero if gradient is None else gradient for gradient in found]

    bar = trange(steps, desc="fitting the kernel", unit="step")
    for number in bar:
        remaining = 1 - number / steps
        for group in optimizer.param_groups:
            group["lr"] = group["rate"] * min(1.0, remaining / 0.4)
        chosen = torch.from_numpy(rng.choice(len(digits), size, replace=False)).to(digits.device)
        one = partial(bits_and_gradients, digits[chosen], chosen)
        bits, of_tasks = zip(*pool.map(one, _tasks(model, rng)), strict=True)
        # The same sum, however many threads there are.
        for parameter, *gradients in zip(trained, *of_tasks, strict=True):
            parameter.grad = torch.zeros_like(parameter) + sum(gradients)
        optimizer.step()
        bar.set_postfix_str(f"{sum(bits) / model.tokens:.2f} bits a token, left out")


def _tasks(model: MovedVotes, rng: np.random.Generator) -> list[tuple[int, float]]:
    """The positions predicted in a step, few of those that share numbers; how often each counts."""
    tasks = [(position, 1.0) for position in range(min(model.tokens, OWN_TOKENS))]
    if later := model.tokens - len(tasks):
        few = min(LATER_TOKENS, later)
        drawn = np.sort(rng.choice(later, few, replace=False)).tolist()
        tasks += [(OWN_TOKENS + number, later / few) for number in drawn]
    return tasks


def left_out_bits(
    model: MovedVotes,
    digits: Tensor,
    residuals: Tensor,
    position: int,
    batch: int,
    *,
    sharper: float = 1.0,
) -> Tensor:
    """-log2 of the mean probability of a token of the first `batch` images, each predicted from all
    other `digits` uint8 [N, F]. residuals: [N, D], of `model.residuals`."""
    first = position * model.digits
    token = digits[:batch, first : first + model.digits].long()
    means = model.own_codes(digits[:batch], position) - residuals[:batch]
    own = torch.arange(batch, device=digits.device)[:, None]
    y = model.project(digits, position)
    x = y[:batch]
    distances = x.square().sum(1)[:, None] + y.square().sum(1)[None] - 2 * x @ y.T
    distances = distances.scatter(1, own, FAR) * sharper
    neighbours = min(neighbours_of(len(digits)), len(digits) - 1)
    heard = distances.topk(neighbours, 1, largest=False)[0][:, -1:]
    logs = torch.log_softmax(-distances.maximum(heard), 1)
    offered = residuals.expand(batch, -1, -1)
    near = min(NEAREST, len(digits))
    if position >= WIDE_TOKENS and near < len(digits):
        logs, nearest = logs.topk(near, 1, sorted=False)
        offered = residuals[nearest]
    p = logs.exp()
    for digit in range(model.digits):
        offers = means[:, digit, None] + offered[..., digit]
        p = p * model.chances(position, digit, token[:, digit, None], offers)
    shares = model.shares(position)
    total = shares[0] * p.sum(1) + shares[2] / math.prod(model.levels)
    if not position:
        equal = (token[:, None] == digits[None, :, : model.digits]).all(2) * logs.exp()
        total = total + shares[1] * equal.sum(1)
    return -total.log2().mean()


@torch.no_grad()
def _narrow(model: MovedVotes, tokens: Tokens, rng: np.random.Generator) -> None:
    """Narrow votes that were fitted to a library to the denser index [N, L] that it was drawn from.

    Squared distances are multiplied by the power of NARROWER with the fewest leave-one-out bits of
    a batch of training images, predicted from all others.
    """
    rows = rng.permutation(len(tokens))[:NARROWED]
    images = torch.from_numpy(rows).to(model.codes.device)
    digits = digits_of(tokens[rows], model.levels, images.device)
    bits = np.zeros(POWERS)
    tasks = _tasks(model, rng)
    some = tasks[:: -(-len(tasks) // NARROWED_BY)]
    for position, times in tqdm(some, desc="narrowing it to all images", unit="token"):
        known = digits, model.residuals(digits, position, images), position, BATCH
        for power in range(POWERS):
            bits[power] += times * left_out_bits(model, *known, sharper=NARROWER**power).item()
    model.sharpness.add_(int(bits.argmin()) * math.log(NARROWER))


def fit_file(index: Index) -> Path:
    """Where the fit of an index is kept: beside it."""
    return index.path.parent / f"{index.path.name}-kernel.safetensors"


def open_kernel(index: Index) -> MovedVotes:
    """The model fitted to `index`: read from beside it, or fitted now and written there.

    UserError where the codec has no FSQ levels, or the images are too few.
    """
    if not index.levels:
        said = f"the codec {index.codec!r} has no FSQ levels"
        raise UserError(f"{said}: the kernel sampler needs their digits")
    file = fit_file(index)
    made_from = _made_from(index)
    if file.exists():
        with safe_open(file, "pt") as f:
            if f.metadata() == made_from:
                stored = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118
                size = rank_of(index.num_images), len(stored["images"])
                model = MovedVotes(index.levels, index.tokens_per_image, *size)
                model.load_state_dict(stored)
                return model.to(choose_device()).requires_grad_(False).eval()
    model = fit(index.tokens, index.levels)
    with atomic(file) as temporary:
        save_file(model.state_dict(), temporary, made_from)
    return model


def _made_from(index: Index) -> dict[str, str]:
    """All that a fit depends on, as text: every constant here, of the model and its regression."""
    constants = sorted((vars(model_file) | vars(regression_file) | globals()).items())
    settings = {name: value for name, value in constants if name.isupper() and name != "VERSION"}
    made_from = {
        "index": index.identity,
        "format": VERSION,
        "settings": settings,
        "rank": rank_of(index.num_images),
    }
    return {name: str(value) for name, value in made_from.items()}
