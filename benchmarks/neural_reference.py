"""Two small transformers on the tokens of an index: the held-out bits that counts have to be compared with.

    python -m benchmarks.neural_reference --index data/demo/index --name digits
    python -m benchmarks.neural_reference --index data/shapes/index --name scenes

Both predict an image's tokens one after another, in one architecture (pre-norm, causal attention):

- `ids`: a token is one of a vocabulary of categories: the usual way;
- `digits`: a token is embedded as the digits of its FSQ code, so that near tokens have most of them in common, and
  predicted digit by digit: what the kernel sampler knows.

They are trained with AdamW at a constant rate and their weights are averaged over the last steps; training ends when a
tenth of the *training* images, set aside, has not been predicted better for a while. The average that predicted it
best is measured on held-out images, of which nothing has been used. `kernel` is the kernel n-gram on the same images.

Appends to a JSON file, entry by entry, so that the same command goes on after a stop: held_out_bits and training_bits
a token, and exact_copy_probability, the chance that a drawn sequence equals a training image, summed over all of them.
"""

import copy
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from imagegram.cli import UserError, run_script, summary
from imagegram.files import read_json, write_json
from imagegram.index.folder import Index
from imagegram.measure.control import read_control
from imagegram.measure.copying import mean
from imagegram.sampling.codes import fsq_digits
from imagegram.sampling.likelihood import probabilities
from imagegram.sampling.settings import Settings

MODELS = ("ids", "digits", "kernel")
WIDTH = 96
HEADS = 4
BLOCKS = 4
DROPOUT = 0.2
BATCH = 64  # images
LEARNING_RATE = 1e-3
WEIGHT_DECAY = 0.1
WARM_UP = 100  # steps
AVERAGED = 500  # steps whose weights are averaged, exponentially; fewer at the beginning
STOPPING_SHARE = 0.1  # of the training images, set aside for early stopping
PATIENCE = 8  # looks at them without a gain, after which training ends
LOOK_EVERY = 100  # steps
MOST_SECONDS = 3600.0  # of training


@dataclass
class Config:
    index: Path = Path("data/index")
    name: str = "digits"  # of the data, in the file
    held_out_from: Path | None = None  # an index whose held-out images are predicted instead: more of them
    model: str = "all"  # or one of ids, digits, kernel
    out: Path = Path("docs/neural_reference.json")
    seed: int = 0


@dataclass(frozen=True)
class Alphabet:
    """How the tokens of an image become symbols, `kinds` of them a token, each below its own number of values."""

    values: tuple[int, ...]  # of each kind
    tokens_per_image: int

    @property
    def kinds(self) -> int:
        return len(self.values)

    def symbols(self, tokens: NDArray[np.uint16]) -> Tensor:
        """Tokens [n, L] -> symbols int64 [n, L, kinds]."""
        return torch.from_numpy(fsq_digits(tokens, self.values))


def feed_forward() -> nn.Module:
    """A layer of its own for each token: [..., WIDTH] -> the same."""
    return nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 4 * WIDTH), nn.ReLU(), nn.Linear(4 * WIDTH, WIDTH))


class Block(nn.Module):
    """Attention to earlier symbols, then a layer of its own for each; both added to what came in."""

    def __init__(self) -> None:
        super().__init__()
        self.before_attention = nn.LayerNorm(WIDTH)
        self.queries_keys_values = nn.Linear(WIDTH, 3 * WIDTH)
        self.after_attention = nn.Linear(WIDTH, WIDTH)
        self.feed_forward = feed_forward()
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, x: Tensor) -> Tensor:
        """[n, places, WIDTH] -> the same."""
        n, places, _ = x.shape
        mixed = self.queries_keys_values(self.before_attention(x))
        queries, keys, values = mixed.view(n, places, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        x = x + self.dropout(self.after_attention(attended.transpose(1, 2).reshape(n, places, -1)))
        return x + self.dropout(self.feed_forward(x))


class Transformer(nn.Module):
    """The tokens of an image, each predicted from those before it, symbol by symbol.

    The blocks see a token as the sum of its symbols' embeddings. A symbol is predicted from what they make of the
    tokens before and from the earlier symbols of its own token (in the manner of Lee et al., 2022, arXiv:2203.01941).
    """

    allowed: Tensor  # bool [kinds, most values]
    first: Tensor  # int64 [kinds]: of each kind's symbols among all of them

    def __init__(self, alphabet: Alphabet):
        super().__init__()
        self.alphabet = alphabet
        most = max(alphabet.values)
        kinds = alphabet.kinds
        allowed = torch.arange(most) < torch.tensor(alphabet.values)[:, None]
        self.register_buffer("allowed", allowed)
        self.register_buffer("first", torch.arange(kinds) * most)
        self.symbols = nn.Embedding(kinds * most, WIDTH)
        self.start = nn.Parameter(torch.zeros(WIDTH))
        self.positions = nn.Parameter(torch.zeros(alphabet.tokens_per_image, WIDTH))
        self.blocks = nn.Sequential(*(Block() for _ in range(BLOCKS)))
        self.symbols_of_own = nn.Embedding(kinds * most, WIDTH)
        self.kinds = nn.Parameter(torch.zeros(kinds, WIDTH))
        self.own = feed_forward()
        self.norm = nn.LayerNorm(WIDTH)
        self.heads = nn.Parameter(torch.zeros(kinds, WIDTH, most))
        self.dropout = nn.Dropout(DROPOUT)
        for weights in (self.symbols.weight, self.symbols_of_own.weight, self.positions, self.start, self.heads):
            nn.init.normal_(weights, std=0.02)

    def forward(self, symbols: Tensor) -> Tensor:
        """Symbols [n, L, kinds] -> log p of every token after those before it, nats: [n, L]."""
        n = len(symbols)
        numbers = symbols + self.first
        tokens = self.symbols(numbers[:, :-1]).sum(2)
        x = torch.cat([self.start.expand(n, 1, -1), tokens], 1) + self.positions
        x = self.blocks(self.dropout(x))  # [n, L, WIDTH]

        earlier = self.symbols_of_own(numbers[:, :, :-1]).cumsum(2)
        x = x[:, :, None] + F.pad(earlier, (0, 0, 1, 0)) + self.kinds  # [n, L, kinds, WIDTH]
        x = self.norm(x + self.dropout(self.own(x)))
        logits = torch.einsum("nlkw,kwm->nlkm", x, self.heads)
        chances = logits.masked_fill(~self.allowed, -torch.inf).log_softmax(3)
        return chances.gather(3, symbols[..., None])[..., 0].sum(2)


def train(alphabet: Alphabet, tokens: NDArray[np.uint16], seed: int) -> tuple[Transformer, dict[str, Any]]:
    """Train on tokens [N, L] with early stopping, with a progress line; returns the best average, and how it went."""
    rng = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    model = Transformer(alphabet)
    average = copy.deepcopy(model).eval().requires_grad_(False)
    best = copy.deepcopy(average)
    matrices = [weights for weights in model.parameters() if weights.ndim > 1]
    others = [weights for weights in model.parameters() if weights.ndim < 2]
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, LEARNING_RATE, betas=(0.9, 0.95))

    symbols = alphabet.symbols(tokens)
    order = torch.randperm(len(symbols), generator=rng)
    aside = round(STOPPING_SHARE * len(symbols))
    stopping = symbols[order[:aside]]
    known = symbols[order[aside:]]

    started = time.monotonic()
    step = 0
    best_step = 0
    best_bits = torch.inf
    bar = tqdm(desc=f"training on {len(known)} images", unit="step")
    while step - best_step < PATIENCE * LOOK_EVERY and time.monotonic() - started < MOST_SECONDS:
        step += 1
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, step / WARM_UP)
        rows = torch.randint(len(known), (BATCH,), generator=rng)
        loss = -model(known[rows]).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

        # Averaged weights do what a falling rate does, without a length of training fixed beforehand.
        share = 1 / min(AVERAGED, 1 + step / 4)
        with torch.no_grad():
            for kept, new in zip(average.parameters(), model.parameters(), strict=True):
                kept.lerp_(new, share)

        bar.update()
        if step % LOOK_EVERY == 0:
            bits = float(-log2_probabilities(average, stopping).mean())
            if bits < best_bits:
                best_bits = bits
                best_step = step
                best = copy.deepcopy(average)
            bar.set_postfix_str(f"{bits:.3f} bits a token, images set aside; best {best_bits:.3f}")
    bar.close()
    went = {
        "parameters": sum(weights.numel() for weights in model.parameters()),
        "steps": best_step,
        "epochs": round(best_step * BATCH / len(known), 1),
        "set_aside": aside,
        "stopping_bits": best_bits,
        "stopped_by": "patience" if step - best_step >= PATIENCE * LOOK_EVERY else "time",
        "seconds": round(time.monotonic() - started),
    }
    return best, went


@torch.inference_mode()
def log2_probabilities(model: Transformer, symbols: Tensor) -> NDArray[np.float64]:
    """log2 of the probability of every token of images given as symbols [n, L, kinds]: float64 [n, L]."""
    nats = torch.cat([model(part).double() for part in symbols.split(512)])
    return nats.numpy() / np.log(2)


def figures(
    ask: Callable[[NDArray[np.uint16]], NDArray[np.float64]], index: Index, held_out: NDArray[np.uint16]
) -> dict[str, Any]:
    """The figures of a model whose log2 probabilities [n, L] of tokens [n, L] are given by `ask`."""
    rng = np.random.default_rng(0)
    training = ask(np.unique(index.tokens, axis=0))
    control = ask(held_out)
    return {
        "held_out_bits": mean(-control.mean(1), rng),
        "training_bits": mean(-training.mean(1), rng),
        "exact_copy_probability": float(np.exp2(training.sum(1)).sum()),
        "extraction_8": {
            "training": float(np.exp2(training[:, 8:].sum(1)).mean()),
            "held_out": float(np.exp2(control[:, 8:].sum(1)).mean()),
        },
    }


def measure(name: str, index: Index, held_out: NDArray[np.uint16], seed: int) -> dict[str, Any]:
    """Train one of MODELS and measure it."""
    if name == "kernel":
        started = time.monotonic()
        measured = figures(lambda tokens: np.log2(probabilities(index, Settings("kernel"), tokens)), index, held_out)
        return measured | {"seconds": round(time.monotonic() - started)}
    values = index.levels if name == "digits" else (index.vocab_size,)
    alphabet = Alphabet(tuple(values), index.tokens_per_image)
    model, went = train(alphabet, index.tokens, seed)

    def ask(tokens: NDArray[np.uint16]) -> NDArray[np.float64]:
        return log2_probabilities(model, alphabet.symbols(tokens))

    return figures(ask, index, held_out) | went


def main(config: Config) -> None:
    if config.model not in ("all", *MODELS):
        raise UserError(f"unknown model {config.model!r}: all, or one of {', '.join(MODELS)}")
    index = Index.open(config.index)
    if not index.levels:
        raise UserError(f"the codec {index.codec!r} has no FSQ levels: there are no digits to predict")
    source = Index.open(config.held_out_from) if config.held_out_from else index
    held_out = read_control(source).tokens
    if not len(held_out):
        raise UserError(f"{source.path} holds out no images: nothing to predict")

    results = read_json(config.out) if config.out.exists() else {}
    for name in MODELS if config.model == "all" else (config.model,):
        entry = f"{config.name}, {name}, seed {config.seed}"
        if results.get(entry, {}).get("index") == index.info["hash"]:
            print(f"{entry}: measured before")
            continue
        print(f"{entry}: {index.num_images} training images, {len(held_out)} held out")
        measured = measure(name, index, held_out, config.seed)
        results = read_json(config.out) if config.out.exists() else {}
        results[entry] = {
            "index": index.info["hash"],
            "training_images": index.num_images,
            "held_out_images": len(held_out),
            **measured,
        }
        write_json(config.out, results)
        summary(
            entry=entry,
            held_out_bits=measured["held_out_bits"]["value"],
            training_bits=measured["training_bits"]["value"],
            exact_copy_probability=measured["exact_copy_probability"],
        )


if __name__ == "__main__":
    sys.exit(run_script(main, Config, __doc__))
