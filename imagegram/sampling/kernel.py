"""The kernel n-gram: counts whose contexts need not be equal, only near, with a metric fitted by likelihood.

A token is predicted digit by digit (the digits of its FSQ code). Every training image j votes for its own digit y_j
at the same place, by how near its context is, and its vote is spread over the digits near to it:

    p(x) = a * sum_j w_j * step(y_j -> x) + b * unigram(x) + (1 - a - b) / levels
    w_j  proportional to exp(-d_j / (EPS + min_k d_k) ^ g)
    d_j  = sum over earlier digits m of W_m |e(x_m) - e(y_jm)|^2

Everything has its own value for every place: the weights W of the earlier digits, the matrix `step`, the shares a and
b, the exponent g that widens the kernel where no image is near; every digit has a place e(digit) on a line. They are
fitted by gradient on the *leave-one-out likelihood of the training images*, each predicted from all others, so that no
held-out image is spent. It is a Parzen window (1962, doi:10.1214/aoms/1177704472) over prefixes in the manner of
Nadaraya & Watson (1964), with the metric learned as in Goldberger et al. (2004, "Neighbourhood Components Analysis").

Since a digit has few values, no matrix of vocabulary x vocabulary is ever made: FlexTok's 64,000 ids are six digits.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import trange

from imagegram.cli import UserError
from imagegram.files import atomic
from imagegram.index.folder import Index
from imagegram.sampling.codes import fsq_digits
from imagegram.sampling.matches import Ints, Matches, truncated
from imagegram.sampling.settings import Settings

FORMAT = 1  # of the stored fit; another one is fitted again
FIRST_TOKENS, LAST_TOKENS = 8, 24  # of the earlier tokens these are the context: all of them up to 32
LEAST_IMAGES = 20  # fewer cannot tell one width from another
STEPS = 120  # of the optimizer
BATCH = 64  # training images predicted in a step
LIBRARY = 16_384  # training images that predict in a step, at most
LEARNING_RATE = 0.07
EPS = 0.3
FAR = 1e9  # a distance whose vote is 0, with gradients that are numbers
PLACES_AT_ONCE = 48  # of the gradient: bounds its memory


class Kernel(nn.Module):
    """The fitted numbers. A place f = token position * digits + digit is one of F = tokens_per_image * len(levels).

    context: int64 [F, C], the earlier places that place f listens to, padded with -1.
    """

    allowed: Tensor  # bool [F, values]: a digit is below its level
    unigram: Tensor  # [F, values]

    def __init__(self, levels: tuple[int, ...], tokens_per_image: int):
        super().__init__()
        self.levels = levels
        self.digits = len(levels)
        self.places = tokens_per_image * self.digits
        values = max(levels)

        # Digits as FSQ codes in [-1, 1], to begin with.
        codes = torch.zeros(self.places, values)
        allowed = torch.zeros(self.places, values, dtype=torch.bool)
        for place in range(self.places):
            level = levels[place % self.digits]
            codes[place, :level] = (torch.arange(level) - level // 2) / (level // 2)
            allowed[place, :level] = True
        self.codes = nn.Parameter(codes)  # [F, values]
        self.register_buffer("allowed", allowed)

        self.contexts = [earlier_places(place, self.digits) for place in range(self.places)]
        longest = max(len(context) for context in self.contexts)
        weights = torch.full((self.places, longest), -math.inf)
        for place, context in enumerate(self.contexts):
            position = place // self.digits
            same = torch.tensor([other // self.digits == position for other in context], dtype=torch.bool)
            # Later tokens are predicted from more tokens, each of which then says less.
            weights[place, : len(context)] = torch.where(same, math.log(3), math.log(max(0.3, 20 / 1.2**position)))
        self.log_weights = nn.Parameter(weights)  # [F, C]

        squares = (codes[:, :, None] - codes[:, None, :]).square()
        self.step_logits = nn.Parameter(-squares / 0.07)  # [F, from, to]
        self.share_logits = nn.Parameter(torch.tensor([[3.0, 0.0, 0.0]]).repeat(self.places, 1))  # [F, 3]
        self.widening = nn.Parameter(torch.zeros(self.places))  # [F], the exponent g
        self.register_buffer("unigram", torch.zeros(self.places, values))

    def embed(self, digits: Tensor) -> Tensor:
        """Digits [n, F'] of the first F' places -> their places on the line, float32 [F', n]."""
        count = digits.shape[1]
        return self.codes[:count].gather(1, digits.T.long())

    def votes(self, place: int, queries: Tensor, library: Tensor, own: Tensor | None = None) -> Tensor:
        """How much each of N images says about `place` of n sequences: [n, N], each row sums to 1.

        queries: [>= place, n] and library: [F, N], both of `embed`; own [n]: an image that must say nothing.
        """
        context = torch.tensor(self.contexts[place], dtype=torch.long, device=library.device)
        x = queries[context].T  # [n, C]
        y = library[context]  # [C, N]
        weight = self.log_weights[place, : len(context)].exp()  # [C]
        distance = (x.square() @ weight)[:, None] - 2 * (x * weight) @ y + (weight @ y.square())[None]
        distance = distance.clamp(min=0)
        if own is not None:
            distance = distance.scatter(1, own[:, None], FAR)
        nearest = distance.detach().amin(1, keepdim=True)
        return torch.softmax(-distance / (nearest + EPS) ** self.widening[place], 1)

    def steps(self, place: int, step: float = 1.0) -> Tensor:
        """The chance that a source's digit becomes another: [from, to]. `step` 0 keeps it as it is."""
        allowed = self.allowed[place]
        if step == 0:
            return torch.eye(len(allowed), device=allowed.device)
        logits = (self.step_logits[place] / step).masked_fill(~allowed[None], -math.inf)
        return logits.softmax(1)

    def shares(self, place: int, step: float = 1.0) -> Tensor:
        """The shares of the votes, of the unigram and of the uniform floor: [3]. `step` scales the last two as well."""
        shares = self.share_logits[place].softmax(0)
        rest = shares[1:] * min(step, 1.0)
        return torch.cat([1 - rest.sum(0, keepdim=True), rest])

    @torch.no_grad()
    def listening(self) -> Tensor:
        """Which position listens to which: [L, L], rows sum to 1. Row i: the share of the distance that decides the
        votes at position i which comes, on average over images, from the digits of each position up to i itself."""
        mean = (self.unigram * self.codes).sum(1)
        spread = (self.unigram * self.codes.square()).sum(1) - mean.square()  # [F], of two images: twice as much
        shares = torch.zeros(self.places, self.places)
        for place, context in enumerate(self.contexts):
            shares[place, context] = self.log_weights[place, : len(context)].exp() * spread[context]
        length = self.places // self.digits
        by_position = shares.view(length, self.digits, length, self.digits).sum((1, 3))
        return by_position / by_position.sum(1, keepdim=True).clamp(min=1e-12)

    def probabilities(self, place: int, votes: Tensor, digits: Tensor, step: float = 1.0) -> Tensor:
        """The distribution of the digit at `place`: [n, values]. votes [n, N]; digits [N]: the images' own."""
        values = self.codes.shape[1]
        sources = votes @ nn.functional.one_hot(digits.long(), values).to(votes.dtype)  # [n, values]
        shares = self.shares(place, step)
        floor = self.allowed[place] / self.allowed[place].sum()
        return shares[0] * (sources @ self.steps(place, step)) + shares[1] * self.unigram[place] + shares[2] * floor


def earlier_places(place: int, digits: int) -> list[int]:
    """The earlier places that the digit at `place` may listen to: of FIRST_TOKENS, LAST_TOKENS and its own token."""
    position = place // digits
    recent = max(0, position - LAST_TOKENS)
    return [other for other in range(place) if other // digits < FIRST_TOKENS or other // digits >= recent]


def fit(tokens: NDArray[np.uint16], levels: tuple[int, ...], device: torch.device, seed: int = 0) -> Kernel:
    """Fit a kernel to training images [N, L] by their leave-one-out likelihood, with a progress line.

    A step predicts BATCH of them from a random LIBRARY of the others, so that its cost does not grow with N.
    """
    n = len(tokens)
    if n < LEAST_IMAGES:
        raise UserError(
            f"{n} images are too few to fit the kernel sampler, it needs {LEAST_IMAGES}: take another method"
        )
    model = Kernel(levels, tokens.shape[1]).to(device)
    _count_unigram(model, tokens)
    size = min(n, LIBRARY if model.places <= 4 * PLACES_AT_ONCE else LIBRARY // 4)
    rng = np.random.default_rng(seed)
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE)
    bar = trange(STEPS, desc="fitting the kernel", unit="step")
    for number in bar:
        remaining = 1 - number / STEPS
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, remaining / 0.4)
        rows = rng.choice(n, size, replace=False)
        digits = _digits(tokens[rows], levels, device)
        own = torch.arange(min(BATCH, size), device=device)
        optimizer.zero_grad()
        bits = 0.0
        for first in range(0, model.places, PLACES_AT_ONCE):
            places = range(first, min(first + PLACES_AT_ONCE, model.places))
            loss = -_log2_probabilities(model, digits[: len(own)], digits, places, own).sum(1).mean() / tokens.shape[1]
            loss.backward()
            bits += loss.item()
        optimizer.step()
        bar.set_postfix_str(f"{bits:.2f} bits a token, left out")
    return model.requires_grad_(False).eval()


def _digits(tokens: NDArray[np.uint16], levels: tuple[int, ...], device: torch.device) -> Tensor:
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
        counts *= model.allowed[place].cpu().numpy()
        model.unigram[place] = torch.from_numpy(counts / counts.sum())


def _log2_probabilities(
    model: Kernel, queries: Tensor, library: Tensor, places: range, own: Tensor | None = None, step: float = 1.0
) -> Tensor:
    """log2 of the probability of the digits of `queries` [n, F] at `places`, after the digits before: [n, places]."""
    x = model.embed(queries[:, : places.stop])
    y = model.embed(library[:, : places.stop])
    result = []
    for place in places:
        votes = model.votes(place, x, y, own)
        p = model.probabilities(place, votes, library[:, place], step)
        result.append(p.gather(1, queries[:, place : place + 1].long())[:, 0].log2())
    return torch.stack(result, 1)


def fit_file(index: Index) -> Path:
    """Where the fit of an index is kept: beside it."""
    return index.path.parent / f"{index.path.name}-kernel.safetensors"


def open_kernel(index: Index, device: torch.device) -> Kernel:
    """The kernel fitted to `index`: read from beside it, or fitted now and written there.

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
    model = fit(index.tokens, index.levels, device)
    keep_kernel(index, model)
    return model


def keep_kernel(index: Index, model: Kernel) -> None:
    """Write a fit beside an index, as its own."""
    with atomic(fit_file(index)) as temporary:
        save_file(model.state_dict(), temporary, _made_from(index))


def _made_from(index: Index) -> dict[str, str]:
    return {"index": str(index.identity), "format": str(FORMAT)}


def choose_device() -> torch.device:
    """The GPU where there is one: a pass over all images is a product of matrices."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Library:
    """The indexed images as a kernel sees them, ready for many sequences."""

    def __init__(self, index: Index, model: Kernel):
        device = model.codes.device
        self.model = model
        self.digits = _digits(index.tokens, index.levels, device).T.contiguous()  # uint8 [F, N]
        self.embedded = model.embed(self.digits.T)  # float32 [F, N]

    def probabilities(
        self, place: int, queries: Tensor, step: float, own: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The votes [n, N] and the distribution of the digit [n, values], after `queries` [place, n] of `embed`."""
        votes = self.model.votes(place, queries, self.embedded, own)
        return votes, self.model.probabilities(place, votes, self.digits[place], step)


def kernel_probabilities(
    index: Index, tokens: NDArray[np.uint16], settings: Settings, own: Ints | None = None
) -> NDArray[np.float64]:
    """p(x_i | x_1 .. x_{i-1}) of every token of `tokens` [n, k], as the sampler draws it: float64 [n, k].

    own: int64 [n], the rows of the index that the sequences are, where each is to be predicted from all others.
    """
    device = choose_device()
    model = open_kernel(index, device)
    library = Library(index, model)
    n, length = tokens.shape
    result = np.ones((n, length))
    rows_at_once = sequences_at_once(index.num_images)
    for first in range(0, n, rows_at_once):
        part = slice(first, first + rows_at_once)
        digits = _digits(tokens[part], index.levels, device)
        queries = model.embed(digits)
        left_out = None if own is None else torch.from_numpy(own[part]).to(device)
        for place in range(digits.shape[1]):
            with torch.inference_mode():
                _, p = library.probabilities(place, queries, settings.step, left_out)
            chances = _reweighted(p, settings)
            chosen = digits[:, place].cpu().numpy()
            result[part, place // model.digits] *= chances[np.arange(len(chosen)), chosen]
    return result


def _reweighted(p: Tensor, settings: Settings) -> NDArray[np.float64]:
    """The distributions of digits [n, values] as they are drawn from: temperature, top-k and top-p applied."""
    rows = p.double().cpu().numpy()
    if not settings.reweighted:
        return rows
    return np.stack([truncated(row, settings.temperature, settings.top_k, settings.top_p) for row in rows])


MAX_PAIRS = 1 << 26  # votes held at a time, 256 MB


def sequences_at_once(num_images: int) -> int:
    """How many sequences are predicted together: their votes are held in memory."""
    return max(1, MAX_PAIRS // num_images)


@dataclass(frozen=True)
class DrawnTokens:
    """One match a sequence, drawn already: a token and the image that it is a step away from; see matches.py."""

    tokens: NDArray[np.uint16]  # [n]
    images: Ints  # [n]
    position: int

    @property
    def counts(self) -> Ints:
        return np.ones(len(self.tokens), np.int64)

    @property
    def identity(self) -> Ints:
        return np.arange(len(self.tokens))[:, None]

    def next_tokens(self, rows: Ints, picks: Ints) -> NDArray[np.uint16]:
        return self.tokens[rows]

    def sources(self, rows: Ints, picks: Ints) -> Ints:
        return np.stack([self.images[rows], np.full(len(rows), self.position)], 1)


def kernel_matches(
    index: Index, settings: Settings, drawn: NDArray[np.uint16], rng: np.random.Generator
) -> Iterator[Matches]:
    """Tokens drawn digit by digit. The source of a token is an image that its last digit was drawn from.

    Temperature, top-k and top-p act on the distribution of each digit.
    """
    device = choose_device()
    model = open_kernel(index, device)
    library = Library(index, model)
    radix = np.cumprod([1, *index.levels[:-1]])
    queries = torch.zeros((model.places, len(drawn)), device=device)
    for position in range(drawn.shape[1]):
        before = position * model.digits
        if position:  # what was drawn may differ from what was offered: given tokens, a class
            digits = _digits(drawn[:, position - 1 : position], index.levels, device)
            places = slice(before - model.digits, before)
            queries[places] = model.codes[places].gather(1, digits.T.long())
        tokens = np.zeros(len(drawn), np.int64)
        for d in range(model.digits):
            with torch.inference_mode():
                votes, p = library.probabilities(before + d, queries, settings.step)
                digit = _draw_digit(p, settings, rng)
                queries[before + d] = model.codes[before + d][torch.from_numpy(digit).to(device)]
            tokens += digit * radix[d]
        place = before + model.digits - 1
        steps = model.steps(place, settings.step)[:, torch.from_numpy(digit).to(device)]  # [from, n]
        with torch.inference_mode():
            images = _draw_source(votes, steps.T.contiguous(), library.digits[place], rng)
        yield DrawnTokens(tokens.astype(np.uint16), images, position)


def _draw_digit(p: Tensor, settings: Settings, rng: np.random.Generator) -> Ints:
    """A digit for each row of probabilities [n, values]: int64 [n]."""
    rows = _reweighted(p, settings)
    backoff = np.cumsum(rows, 1)
    wanted = rng.random((len(rows), 1)) * backoff[:, -1:]
    return (backoff <= wanted).sum(1).clip(max=rows.shape[1] - 1)


def _draw_source(votes: Tensor, steps: Tensor, digits: Tensor, rng: np.random.Generator) -> Ints:
    """An image for each sequence, by its vote [n, N] and the chance [n, values] that its digit [N] becomes the drawn.

    First a block of images, then one of the block: the sums stay short, and so exact in float32.
    """
    n, count = votes.shape
    block = 512
    mass = votes * steps[:, digits.long()]
    mass = torch.where(mass.sum(1, keepdim=True) > 0, mass, votes)  # the floor or the unigram drew it: the votes alone
    blocks = nn.functional.pad(mass, (0, -count % block)).view(n, -1, block)
    backoff = blocks.sum(2, dtype=torch.float64).cumsum(1).contiguous()
    wanted = torch.from_numpy(rng.random((n, 1))).to(votes.device) * backoff[:, -1:]
    chosen = torch.searchsorted(backoff, wanted, right=True).clamp(max=backoff.shape[1] - 1)  # [n, 1]
    within = blocks[torch.arange(n, device=votes.device), chosen[:, 0]].double().cumsum(1).contiguous()
    rest = wanted - nn.functional.pad(backoff, (1, 0)).gather(1, chosen)
    image = torch.searchsorted(within, rest, right=True).clamp(max=block - 1)
    return (chosen * block + image)[:, 0].clamp(max=count - 1).cpu().numpy()
