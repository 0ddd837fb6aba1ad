"""The metric of the kernel n-gram (kernel.py has the formula): what is fitted, how, and where it is kept."""

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
from torch import Tensor, nn
from tqdm import tqdm, trange

from imagegram.cli import UserError
from imagegram.files import atomic
from imagegram.index.folder import Index
from imagegram.machine import single_threads
from imagegram.sampling.codes import fsq_digits

FORMAT = 3  # of the stored fit; another one is fitted again
FIRST_TOKENS = 8
LAST_TOKENS = 24  # of the earlier tokens these are the context: all of them up to 32
OWN_TOKENS = FIRST_TOKENS + LAST_TOKENS  # have numbers of their own; all later tokens share one set of them
LEAST_IMAGES = 20  # fewer cannot tell one width from another
STEPS = 120  # of the optimizer, at most
PASSES = 6  # times that a training image is predicted, at most: fewer images are learned by heart if seen more often
BATCH = 64  # training images predicted in a step
LIBRARY = 16_384  # training images that predict in a step, at most
LONG_BATCH = 16  # the same for images whose tokens share numbers, which has each step see
LONG_LIBRARY = 4096
LATER_PLACES = 48  # of the places that share them, drawn anew
LEARNING_RATE = 0.07
EPS = 0.3
NARROWER = 1.25  # times the weights of the metric, one try after another, where the corpus is larger than the library
MAX_PAIRS = 1 << 26  # votes held at a time, 256 MB
FAR = 1e9  # a distance whose vote is 0, with gradients that are numbers
PLACES_AT_ONCE = 12  # of the gradient, the share of a thread: bounds its memory
VOTES_AT_ONCE = 1 << 22  # of a thread, where nothing is fitted: short enough to stay in memory that it has already


class Kernel(nn.Module):
    """The fitted numbers. A place f = token position * digits + digit is one of F = tokens_per_image * len(levels).

    Places after the first OWN_TOKENS tokens listen to as many earlier ones each, and share the numbers of the last of R
    rows: 24 tokens back counts alike for all of them. Images that short have R = F, a row for every place.
    """

    allowed: Tensor  # bool [R, values]: a digit is below its level
    unigram: Tensor  # [F, values]

    def __init__(self, levels: tuple[int, ...], tokens_per_image: int):
        super().__init__()
        self.levels = levels
        self.digits = len(levels)
        self.places = tokens_per_image * self.digits
        self.rows = min(tokens_per_image, OWN_TOKENS + 1) * self.digits
        values = max(levels)

        # Digits as FSQ codes in [-1, 1], to begin with.
        codes = torch.zeros(self.rows, values)
        allowed = torch.zeros(self.rows, values, dtype=torch.bool)
        for place in range(self.rows):
            level = levels[place % self.digits]
            codes[place, :level] = (torch.arange(level) - level // 2) / (level // 2)
            allowed[place, :level] = True
        self.codes = nn.Parameter(codes)  # [R, values]
        self.register_buffer("allowed", allowed)

        self.contexts = [earlier_places(place, self.digits) for place in range(self.places)]
        longest = max(len(context) for context in self.contexts)
        weights = torch.full((self.rows, longest), -math.inf)
        for place, context in enumerate(self.contexts[: self.rows]):
            position = place // self.digits
            same = torch.tensor([other // self.digits == position for other in context], dtype=torch.bool)
            # Later tokens are predicted from more tokens, each of which then says less.
            weights[place, : len(context)] = torch.where(same, math.log(3), math.log(max(0.3, 20 / 1.2**position)))
        self.log_weights = nn.Parameter(weights)  # [R, C]

        squares = (codes[:, :, None] - codes[:, None, :]).square()
        self.step_logits = nn.Parameter(-squares / 0.07)  # [R, from, to]
        self.share_logits = nn.Parameter(torch.tensor([[3.0, 0.0, 0.0]]).repeat(self.rows, 1))  # [R, 3]
        # Where tokens share their numbers the width is the same everywhere: a vote depends on its own image alone.
        self.widening = nn.Parameter(torch.zeros(self.rows), requires_grad=not self.shared)  # [R], the exponent g
        self.register_buffer("unigram", torch.zeros(self.places, values))

    @property
    def shared(self) -> bool:
        """Whether places share rows."""
        return self.rows < self.places

    def row(self, place: int) -> int:
        """Where the numbers of a place stand."""
        return place if place < self.rows else self.rows - self.digits + place % self.digits

    def codes_of(self, places: Sequence[int]) -> Tensor:
        """Where the digits of some places lie: [places, values]."""
        return self.codes[[self.row(place) for place in places]]

    def embed(self, digits: Tensor) -> Tensor:
        """Digits [n, F'] of the first F' places -> their places on the line, float32 [F', n]."""
        return self.codes_of(range(digits.shape[1])).gather(1, digits.T.long())

    def weights(self, place: int) -> Tensor:
        """What each place of `contexts[place]` weighs: [C]."""
        return self.log_weights[self.row(place), : len(self.contexts[place])].exp()

    def votes(self, place: int, queries: Tensor, library: Tensor, own: Tensor | None = None) -> Tensor:
        """How much each of N images says about `place` of n sequences: [n, N], each row sums to 1."""
        distance = self.distances(place, queries, library, own)
        return torch.softmax(distance * (-1 / self.width(place, distance.detach().amin(1, keepdim=True))), 1)

    def distances(self, place: int, queries: Tensor, library: Tensor, own: Tensor | None = None) -> Tensor:
        """How far N images are from n sequences, for what follows at `place`: [n, N].

        queries: [>= place, n] and library: [F, N], both of `embed`; own [n]: an image that must say nothing.
        """
        context = torch.tensor(self.contexts[place], dtype=torch.long, device=library.device)
        x = queries[context].T  # [n, C]
        y = library[context]  # [C, N]
        weight = self.weights(place)
        distance = torch.addmm((weight @ y.square())[None], x * (-2 * weight), y) + (x.square() @ weight)[:, None]
        distance = distance.clamp(min=0)
        return distance if own is None else distance.scatter(1, own[:, None], FAR)

    def width(self, place: int, nearest: Tensor) -> Tensor:
        """What the distances are divided by where the nearest image is that far away: [n, 1] -> [n, 1]."""
        return (nearest.clamp(min=0) + EPS) ** self.widening[self.row(place)]

    def steps(self, place: int, step: float = 1.0) -> Tensor:
        """The chance that a source's digit becomes another: [from, to]. `step` 0 keeps it as it is."""
        allowed = self.allowed[self.row(place)]
        if step == 0:
            return torch.eye(len(allowed), device=allowed.device)
        logits = (self.step_logits[self.row(place)] / step).masked_fill(~allowed[None], -math.inf)
        return logits.softmax(1)

    def shares(self, place: int, step: float = 1.0) -> Tensor:
        """The shares of the votes, of the unigram and of the uniform floor: [3]. `step` scales the last two as well."""
        shares = self.share_logits[self.row(place)].softmax(0)
        rest = shares[1:] * min(step, 1.0)
        return torch.cat([1 - rest.sum(0, keepdim=True), rest])

    def log2_probabilities(
        self, queries: Tensor, library: Tensor, places: Sequence[int], own: Tensor | None = None
    ) -> Tensor:
        """log2 of the probability of the digits of `queries` [n, F] at `places`, after those before: [n, places].

        library: the digits [N, F] of the images that vote; own [n]: of these, one that must say nothing.
        """
        stop = max(places) + 1
        x = self.embed(queries[:, :stop])
        y = self.embed(library[:, :stop])
        result = []
        for place in places:
            votes = self.votes(place, x, y, own)
            p = self.probabilities(place, votes, library[:, place])
            result.append(p.gather(1, queries[:, place : place + 1].long())[:, 0].log2())
        return torch.stack(result, 1)

    @torch.no_grad()
    def listening(self) -> Tensor:
        """Which position listens to which: [L, L], rows sum to 1. Row i: the share of the distance that decides the
        votes at position i which comes, on average over images, from the digits of each position up to i itself."""
        codes = self.codes_of(range(self.places))
        mean = (self.unigram * codes).sum(1)
        spread = (self.unigram * codes.square()).sum(1) - mean.square()  # [F], of two images: twice as much
        shares = torch.zeros(self.places, self.places)
        for place, context in enumerate(self.contexts):
            shares[place, context] = self.weights(place) * spread[context]
        length = self.places // self.digits
        by_position = shares.view(length, self.digits, length, self.digits).sum((1, 3))
        return by_position / by_position.sum(1, keepdim=True).clamp(min=1e-12)

    def probabilities(self, place: int, votes: Tensor, digits: Tensor, step: float = 1.0) -> Tensor:
        """The distribution of the digit at `place`: [n, values]. votes [n, N]; digits [N]: the images' own."""
        sources = votes @ nn.functional.one_hot(digits.long(), self.allowed.shape[1]).to(votes.dtype)
        return self.mixture(place, sources, step)

    def mixture(self, place: int, sources: Tensor, step: float = 1.0) -> Tensor:
        """The same from the votes for each digit [n, values]: they step, and unigram and floor join them."""
        allowed = self.allowed[self.row(place)]
        shares = self.shares(place, step)
        floor = allowed / allowed.sum()
        return shares[0] * (sources @ self.steps(place, step)) + shares[1] * self.unigram[place] + shares[2] * floor


def earlier_places(place: int, digits: int) -> list[int]:
    """The earlier places that the digit at `place` may listen to: of FIRST_TOKENS, LAST_TOKENS and its own token."""
    position = place // digits
    recent = max(0, position - LAST_TOKENS)
    return [other for other in range(place) if other // digits < FIRST_TOKENS or other // digits >= recent]


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
            results = list(pool.map(lambda part, digits=digits: _gradient(model, digits, batch, *part), parts))
            # The same sum, however many threads there are.
            for parameter, *gradients in zip(trained, *(gradients for _, gradients in results), strict=True):
                parameter.grad = torch.stack(gradients).sum(0)
            optimizer.step()
            bits = sum(bits for bits, _ in results) / tokens.shape[1]
            bar.set_postfix_str(f"{bits:.2f} bits a token, left out")
        model.requires_grad_(False).eval()
        if n > 2 * size:
            _narrow(model, tokens, rng, pool)
    return model


@contextlib.contextmanager
def _threads(device: torch.device) -> Iterator[ThreadPoolExecutor]:
    """Threads that each do operations of their own: most are too short to be shared between two cores."""
    with single_threads() as threads, ThreadPoolExecutor(threads if device.type == "cpu" else 1) as pool:
        yield pool


def _gradient(
    model: Kernel, digits: Tensor, batch: int, places: Sequence[int], times: float
) -> tuple[float, tuple[Tensor, ...]]:
    """The bits of the first `batch` of `digits` [N, F] at some places, each left out, and the parameters' gradients."""
    own = torch.arange(batch, device=digits.device)
    bits = -times * model.log2_probabilities(digits[:batch], digits, places, own).sum(1).mean()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return bits.item(), torch.autograd.grad(bits, trained)


def _narrow(model: Kernel, tokens: NDArray[np.uint16], rng: np.random.Generator, pool: ThreadPoolExecutor) -> None:
    """Narrow a metric that was fitted to a library to the denser corpus [N, L] that it was drawn from.

    All weights are multiplied by one number, as long as that lowers the leave-one-out bits of a batch of training
    images, each predicted from all N - 1 others.
    """
    device = model.codes.device
    digits = digits_of(tokens, model.levels, device)
    batch = LONG_BATCH if model.shared else BATCH
    rows = torch.from_numpy(rng.choice(len(tokens), batch, replace=False)).to(device)
    parts = rows.split(max(1, VOTES_AT_ONCE // len(tokens)))
    best = math.inf
    with tqdm(desc="narrowing it to all images", unit="try") as bar:
        while True:
            logs = pool.map(
                lambda part: model.log2_probabilities(digits[part], digits, range(model.places), part), parts
            )
            bits = -torch.cat(list(logs)).sum(1).mean().item() / tokens.shape[1]
            bar.update()
            if bits >= best:
                break
            best = bits
            bar.set_postfix_str(f"{bits:.2f} bits a token, left out")
            model.log_weights.add_(math.log(NARROWER))
    model.log_weights.sub_(math.log(NARROWER))  # the last try was one too many


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


def digits_of(tokens: NDArray[np.uint16], levels: tuple[int, ...], device: torch.device) -> Tensor:
    """Tokens [n, k] -> their digits, uint8 [n, k * len(levels)]."""
    table = fsq_digits(np.arange(math.prod(levels)), levels).astype(
        np.uint8
    )  # looked up, which takes an eighth of the memory
    return torch.from_numpy(table[tokens].reshape(len(tokens), -1)).to(device)


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


def choose_device() -> torch.device:
    """The GPU where there is one: a pass over all images is a product of matrices."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
