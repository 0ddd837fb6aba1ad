"""Two small transformers on the tokens of an index: the held-out bits that counts have to be
compared with.

    python -m experiments.neural_reference --index data/demo/index --name digits
    python -m experiments.neural_reference --index data/shapes/index --name scenes

Both predict an image's tokens one after another, in one architecture (pre-norm, causal attention):

- `ids`: a token is one of a vocabulary of categories: the usual way;
- `digits`: a token is embedded as the digits of its FSQ code, so that near tokens have most of them
  in common, and predicted digit by digit: what the kernel sampler knows.

They are trained with AdamW at a constant rate and their weights are averaged over the last steps;
training ends when a tenth of the *training* images (2,000 at most), set aside, has not been
predicted better for a while. The average that predicted it best is measured on held-out images,
of which nothing has been used. `kernel` is the kernel n-gram as fitted, on the same images.

Writes a JSON file entry by entry, and checkpoints meanwhile, so that the same command goes on after
a stop: held_out_bits and training_bits a token, and exact_copy_probability, the chance that a drawn
sequence equals a training image, summed over all of them. An hour or two on two cores for 18,000
images.
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

from experiments.common import Corpus
from imagegram.cli import UserError, run_script, summary
from imagegram.codec.fsq import fsq_digits
from imagegram.files import atomic, read_json, write_json
from imagegram.index.folder import Index
from imagegram.metrics.intervals import mean, to_json
from imagegram.samplers import Kernel

MODELS = ("ids", "digits", "kernel")
WIDTH = 96
HEADS = 4
BLOCKS = 4
DROPOUT = 0.2
BATCH = 64  # images
LEARNING_RATE = 2e-3
WEIGHT_DECAY = 0.1
WARM_UP = 100  # steps
AVERAGED = 300  # steps whose weights are averaged, exponentially; fewer at the beginning
STOPPING_SHARE = 0.1  # of the training images, set aside for early stopping
MOST_STOPPING = 2000  # images set aside: more would tell no better when to stop
# Training ends after so many looks at them without a gain, and two epochs.
PATIENCE = 10
PATIENT_EPOCHS = 2
LOOK_EVERY = 50  # steps
# of a training, in its checkpoint
PARTS = ("model", "average", "best", "optimizer")
NUMBERS = ("step", "best_step", "best_bits", "seconds")


# tokens [n, L] -> the log2 of their probabilities [n, L]
Ask = Callable[[NDArray[np.uint16]], NDArray[np.float64]]


@dataclass
class Config:
    index: Path = Path("data/index")
    name: str = "digits"  # of the data, in the file
    held_out_from: Path | None = None
    """an index whose held-out images are predicted instead: more of them"""
    model: str = "all"  # or one of ids, digits, kernel
    out: Path = Path("docs/neural_reference.json")
    seed: int = 0
    steps: int = 20_000  # of training at most; early stopping comes first, as a rule
    checkpoints: Path = Path("data/neural_reference")


@dataclass(frozen=True)
class Alphabet:
    """How the tokens of an image become symbols, `kinds` of them a token, each below its own number
    of values."""

    values: tuple[int, ...]  # of each kind
    tokens_per_image: int

    def symbols(self, tokens: NDArray[np.uint16]) -> Tensor:
        """Tokens [n, L] -> symbols int64 [n, L, kinds]."""
        return torch.from_numpy(fsq_digits(tokens, self.values))


def feed_forward() -> nn.Module:
    """A layer of its own for each token: [..., WIDTH] -> the same."""
    return nn.Sequential(
        nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 4 * WIDTH), nn.ReLU(), nn.Linear(4 * WIDTH, WIDTH)
    )


class Block(nn.Module):
    """Attention to earlier symbols, then a layer of its own for each; both added to what came
    in."""

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

    The blocks see a token as the sum of its symbols' embeddings. A symbol is predicted from what
    they make of the tokens before and from the earlier symbols of its own token (in the manner of
    Lee et al., 2022, arXiv:2203.01941).
    """

    allowed: Tensor  # bool [kinds, most values]
    first: Tensor  # int64 [kinds]: of each kind's symbols among all of them

    def __init__(self, alphabet: Alphabet):
        super().__init__()
        self.alphabet = alphabet
        most, kinds = max(alphabet.values), len(alphabet.values)
        self.register_buffer("allowed", torch.arange(most) < torch.tensor(alphabet.values)[:, None])
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
        tables = self.symbols.weight, self.symbols_of_own.weight
        for weights in (*tables, self.positions, self.start, self.heads):
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


class Training:
    """A transformer in training on tokens [N, L] of some images, its average, and the best average
    so far."""

    def __init__(self, alphabet: Alphabet, tokens: NDArray[np.uint16], seed: int):
        self.rng = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)
        self.model = Transformer(alphabet)
        self.average = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.best = copy.deepcopy(self.average)
        matrices = [weights for weights in self.model.parameters() if weights.ndim > 1]
        others = [weights for weights in self.model.parameters() if weights.ndim < 2]
        groups: list[Any] = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": others}]
        self.optimizer = torch.optim.AdamW(groups, LEARNING_RATE, (0.9, 0.95), weight_decay=0.0)

        symbols = alphabet.symbols(tokens)
        order = torch.randperm(len(symbols), generator=self.rng)
        aside = min(round(STOPPING_SHARE * len(symbols)), MOST_STOPPING)
        self.stopping = symbols[order[:aside]]
        self.known = symbols[order[aside:]]
        self.step = 0
        self.best_step = 0
        self.best_bits = float("inf")
        self.seconds = 0.0

    @property
    def stopped(self) -> bool:
        """Whether the images set aside have not been predicted better for a while."""
        patience = max(PATIENCE * LOOK_EVERY, PATIENT_EPOCHS * len(self.known) // BATCH)
        return self.step - self.best_step >= patience

    def one_step(self) -> None:
        """Learn from a batch."""
        self.step += 1
        for group in self.optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, self.step / WARM_UP)
        rows = torch.randint(len(self.known), (BATCH,), generator=self.rng)
        loss = -self.model(self.known[rows]).mean()
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()

        # What a falling rate does as well, but for a length of training that is fixed beforehand.
        share = 1 / min(AVERAGED, 1 + self.step / 4)
        with torch.no_grad():
            for kept, new in zip(self.average.parameters(), self.model.parameters(), strict=True):
                kept.lerp_(new, share)

    def look(self) -> float:
        """Bits a token of the images set aside, under the average; it is kept where it is the best
        so far."""
        bits = float(-log2_probabilities(self.average, self.stopping).mean())
        if bits < self.best_bits:
            self.best_bits = bits
            self.best_step = self.step
            self.best = copy.deepcopy(self.average)
        return bits

    def save(self, path: Path) -> None:
        """Write everything that `load` needs to go on."""
        state = {name: getattr(self, name).state_dict() for name in PARTS}
        state |= {name: getattr(self, name) for name in NUMBERS}
        state |= {"rng": self.rng.get_state(), "dropout": torch.get_rng_state()}
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as temporary:
            torch.save(state, temporary)

    def load(self, path: Path) -> None:
        """Go on from what `save` wrote."""
        state = torch.load(path, weights_only=True)
        for name in PARTS:
            getattr(self, name).load_state_dict(state[name])
        for name in NUMBERS:
            setattr(self, name, state[name])
        self.rng.set_state(state["rng"])
        torch.set_rng_state(state["dropout"])


def train(training: Training, checkpoint: Path, most_steps: int) -> dict[str, Any]:
    """Train until early stopping, or `most_steps`, with a progress line; returns how it went."""
    if checkpoint.exists():
        training.load(checkpoint)
    started = time.monotonic() - training.seconds
    title = f"training on {len(training.known)} images"
    with tqdm(desc=title, unit="step", initial=training.step, mininterval=5) as bar:
        while not training.stopped and training.step < most_steps:
            training.one_step()
            bar.update()
            if training.step % LOOK_EVERY == 0:
                bits = f"{training.look():.3f} bits a token, images set aside"
                bar.set_postfix_str(f"{bits}; best {training.best_bits:.3f}")
                training.seconds = time.monotonic() - started
                training.save(checkpoint)
    return {
        "parameters": sum(weights.numel() for weights in training.model.parameters()),
        "steps": training.step,
        "best_step": training.best_step,
        "best_epoch": round(training.best_step * BATCH / len(training.known), 1),
        "stopping_images": len(training.stopping),
        "stopping_bits": training.best_bits,
        "stopped_early": training.stopped,
        "seconds": round(training.seconds),
    }


@torch.inference_mode()
def log2_probabilities(model: Transformer, symbols: Tensor) -> NDArray[np.float64]:
    """Those of every token [n, L] of images given as symbols [n, L, kinds]."""
    nats = torch.cat([model(part).double() for part in symbols.split(512)])
    return nats.numpy() / np.log(2)


def figures(ask: Ask, index: Index, held_out: NDArray[np.uint16]) -> dict[str, Any]:
    """The figures of the model that answers `ask`."""
    rng = np.random.default_rng(0)
    training = ask(np.unique(index.tokens, axis=0))
    real = ask(held_out)
    return {
        "held_out_bits": mean(-real.mean(1), rng),
        "training_bits": mean(-training.mean(1), rng),
        "exact_copy_probability": float(np.exp2(training.sum(1)).sum()),
        "extraction_8": {
            "training": float(np.exp2(training[:, 8:].sum(1)).mean()),
            "held_out": float(np.exp2(real[:, 8:].sum(1)).mean()),
        },
    }


def measure(
    name: str, config: Config, index: Index, held_out: NDArray[np.uint16]
) -> dict[str, Any]:
    """Train one of MODELS, or go on with it, and measure it."""
    if name == "kernel":
        started = time.monotonic()
        kernel = Kernel(temperature=1)
        measured = figures(lambda x: np.log2(kernel.probabilities(index, x)), index, held_out)
        return measured | {"seconds": round(time.monotonic() - started)}
    values = index.levels if name == "digits" else (index.vocab_size,)
    alphabet = Alphabet(tuple(values), index.tokens_per_image)
    training = Training(alphabet, index.tokens, config.seed)
    checkpoint = config.checkpoints / f"{index.identity[:16]}-{name}-{config.seed}.pt"
    went = train(training, checkpoint, config.steps)

    best = training.best
    return figures(lambda x: log2_probabilities(best, alphabet.symbols(x)), index, held_out) | went


def read_results(config: Config) -> dict[str, Any]:
    return read_json(config.out) if config.out.exists() else {}


def main(config: Config) -> None:
    if config.model not in ("all", *MODELS):
        raise UserError(f"unknown model {config.model!r}: all, or one of {', '.join(MODELS)}")
    index = Index.open(config.index)
    if not index.levels:
        raise UserError(
            f"the codec {index.codec!r} has no FSQ levels: there are no digits to predict"
        )
    held_out = Corpus.open(config.held_out_from or config.index).held_out.tokens

    for name in MODELS if config.model == "all" else (config.model,):
        entry = f"{config.name}, {name}, seed {config.seed}"
        before = read_results(config).get(entry, {})
        if before.get("index") == index.identity and before.get("stopped_early", True):
            print(f"{entry}: measured before")
            continue
        print(f"{entry}: {index.num_images} training images, {len(held_out)} held out")
        measured = measure(name, config, index, held_out)
        images = {"training_images": index.num_images, "held_out_images": len(held_out)}
        found = {"index": index.identity, **images, **to_json(measured)}
        write_json(config.out, read_results(config) | {entry: found})
        bits = {name: measured[name].value for name in ("held_out_bits", "training_bits")}
        summary(entry=entry, **bits, exact_copy_probability=measured["exact_copy_probability"])


if __name__ == "__main__":
    sys.exit(run_script(main, Config, __doc__))
