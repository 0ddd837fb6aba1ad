"""Anyone's token sequences beside training sequences: copies, origins, bits of held-out ones."""

import importlib
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imagegram.cli import UserError
from imagegram.index.build import build_index
from imagegram.index.folder import Index
from imagegram.metrics import copying
from imagegram.metrics.commands import Tokens as Command
from imagegram.metrics.exact import bits, exact_figures
from imagegram.metrics.held_out import read_held_out
from imagegram.metrics.instrument import beside_real, side
from imagegram.metrics.intervals import mean
from imagegram.metrics.nearest import memorization_figures
from imagegram.metrics.provenance import describe_pictures, traced
from imagegram.metrics.registry import BY_KEY, EXACT_COPIES, Figures
from imagegram.samplers import Samples, sampler_named
from imagegram.token_arrays import read_tokens, tokens_from

Tokens = NDArray[np.uint16]
Decode = Callable[[Tokens], NDArray[np.uint8]]


@dataclass(frozen=True)
class Given:
    """What is measured, and the index of the training sequences."""

    samples: Tokens  # [n, L]
    held_out: Tokens  # [M, L]
    index: Index


@dataclass(frozen=True)
class Measured:
    """All that was measured."""

    figures: dict[str, Figures]  # of "generated" and, where there are any, "held_out" sequences
    bits: dict[str, Figures]  # by sampler
    facts: list[dict[str, Any]]  # of every sample, as `describe_pictures`
    sources: NDArray[np.int64]  # [n, L, 2]


def read_given(command: Command) -> Given:
    """Read the arrays, and build the index of training sequences in one; UserError: wrong input."""
    if command.sequences < 1:
        raise UserError(f"--sequences {command.sequences}: at least 1 is needed")
    for name in command.samplers:
        sampler_named(name)
    levels = () if command.vocab_size else command.levels
    vocab_size = command.vocab_size or int(np.prod(levels))
    from_array = command.training.suffix == ".npy"
    if from_array:
        training = read_tokens(command.training, vocab_size)
        length = training.shape[1]
    else:
        index = Index.open(command.training)
        vocab_size, length = index.vocab_size, index.tokens_per_image
    samples = read_tokens(command.samples, vocab_size, length)
    held_out = None
    if command.held_out is not None:
        held_out = read_tokens(command.held_out, vocab_size, length)
    if from_array:
        options: dict[str, Any] = {"levels": levels, "vocab_size": command.vocab_size}
        options["held_out_share"] = 0.1 if held_out is None else 0.0
        folder = tokens_from(training, command.out / "tokens", **options)
        index = build_index([folder.path], command.out / "index_input", command.out / "index")
    if held_out is None:
        held_out = read_held_out(index).tokens
    return Given(samples[: command.sequences], held_out, index)


def measure_tokens(given: Given, samplers: tuple[str, ...], seed: int) -> Measured:
    """All figures; those of held-out sequences where there are any."""
    rng = np.random.default_rng(seed)
    index = given.index
    figures = copying.measure(given.samples, index, given.held_out, rng)
    if index.levels and len(given.held_out):
        for who, found in memorization_figures(given.samples, index, given.held_out, rng).items():
            figures[who] |= found
    by_sampler = {}
    for name in samplers:
        sampler = sampler_named(name)
        print(f"bits of {name}", flush=True)
        exact = exact_figures(index, sampler, given.held_out, np.random.default_rng(0))
        p = sampler.probabilities(index, given.samples)
        each = bits(p, 1 - exact["floor_share"], index.vocab_size)
        by_sampler[name] = exact | {"sample_bits": mean(each.mean(1), rng)}
    sources = traced(index, given.samples)
    facts = describe_pictures(index, given.samples, Samples(given.samples, sources))
    return Measured(figures, by_sampler, facts, sources)


def answer(figures: dict[str, Figures], facts: list[dict[str, Any]]) -> list[str]:
    """The verdict in sentences."""
    measured = (EXACT_COPIES.key, "near_copies", "f_mem")
    more = [beside_real(key, figures) for key in measured if side(key, figures) > 0]
    copies = format(figures["generated"][EXACT_COPIES.key], EXACT_COPIES.unit)
    if "held_out" not in figures:
        first = (
            f"Exact copies: {copies}. There are no held-out sequences to compare with (--held-out)."
        )
    elif more:
        first = f"Some of these sequences are copies: {'; '.join(more)}."
    else:
        first = f"No more copies than among held-out real sequences: {copies} are exact."
    kinds = Counter(fact["kind"] for fact in facts)
    counted = ", ".join(f"{count} {BY_KEY[kind].title}" for kind, count in kinds.most_common())
    return [first, f"Of {len(facts)} sequences: {counted}."]


def decoder_named(name: str) -> Decode:
    """MODULE:FUNCTION of a module that is installed or in the working folder, else UserError."""
    module, _, function = name.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        found: Decode = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        said = f"--decode {name} is no function ({error})"
        raise UserError(f"{said}: give module:function, as mine:decode") from None
    return found


def decoded(decode: Decode, tokens: Tokens) -> NDArray[np.uint8]:
    """Pictures uint8 [n, 3, S, S] of tokens [n, L]; UserError: the function gives another thing."""
    pictures = np.asarray(decode(tokens))
    if pictures.ndim != 4 or pictures.shape[:2] != (len(tokens), 3) or pictures.dtype != np.uint8:
        raise UserError(
            f"--decode gave {pictures.dtype} {list(pictures.shape)} for {len(tokens)} sequences: "
            "pictures are uint8 [n, 3, S, S]"
        )
    return pictures
