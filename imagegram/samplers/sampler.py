"""Samplers: the next token of an image from what followed its tokens so far in the index.

Every sampler turns the tokens so far into a set of matches, places in the corpus where the same context stands, and
draws one: its next token is emitted, and its image and position are the token's source. A match drawn uniformly
draws the token from the exact next-token distribution of the context, however many matches there are.

- `ntd`: anywhere. The longest suffix of the last `context` tokens (the separator counts as one, before the
  first) that occurs anywhere in the corpus with a token after it: infini-gram (Liu et al., 2024, arXiv:2401.17377),
  the next-token distribution that Fastgram's `ntd()` answers.
- `aligned`: the same tokens at the same positions. Image tokens are ordered: the same id at another position means
  something else. The longest context of at most `context` tokens that `min_images` images share; the first `anchor`
  tokens must match as well, however short the context.
- `smoothed`: the same, interpolated over all lengths of context by absolute discounting (smoothed.py), which also
  gives held-out bits per token.
- `kernel`: counts that generalise (kernel.py). Every training image votes for its next token by how near its prefix is,
  in a metric fitted to the training images, and the token may step away from that of its source, as far as was fitted.

Temperature, top-k and top-p act on the final distribution, after the smoothing. `label` draws the first token from
the images of one class.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from imagegram.cli import UserError
from imagegram.index.folder import Index
from imagegram.samplers.aligned import aligned_matches, matches_of_class
from imagegram.samplers.kernel.sampler import kernel_matches
from imagegram.samplers.matches import Ints, Matches, draw_match
from imagegram.samplers.ntd import matches_anywhere
from imagegram.samplers.settings import Settings
from imagegram.samplers.smoothed import smoothed_matches


@dataclass(frozen=True)
class Samples:
    """tokens: uint16 [n, k]; sources: int64 [n, k, 2], the row of `Index.tokens` and the position copied from."""

    tokens: NDArray[np.uint16]
    sources: Ints


def sample(
    index: Index,
    settings: Settings,
    n: int,
    rng: np.random.Generator,
    length: int = 0,
    prefix: NDArray[np.uint16] | None = None,
) -> Samples:
    """Draw `n` sequences of `length` tokens (0: `index.tokens_per_image`).

    `prefix` [n, p] gives their first tokens; the source of these is (-1, -1).
    """
    settings.check()
    length = length or index.tokens_per_image
    given = 0 if prefix is None else prefix.shape[1]
    if not given <= length <= index.tokens_per_image:
        raise UserError(f"{length} tokens after {given}: an image of {index.path} has {index.tokens_per_image}")
    if given and settings.anchor:
        raise UserError("an anchor may have no match after a given prefix: set anchor to 0")
    tokens = np.zeros((n, length), np.uint16)
    sources = np.full((n, length, 2), -1, np.int64)
    if prefix is not None:
        tokens[:, :given] = prefix
    progress = tqdm(total=n * length, unit="token", unit_scale=True, desc="sampling", delay=3)
    rows = np.arange(n)
    for position, matches in enumerate(matches_at_every_position(index, settings, tokens, rng)):
        progress.update(n)
        if position < given:
            continue
        if position == 0 and settings.label >= 0:
            matches = matches_of_class(index, settings.label, n)
        picks = draw_match(matches, settings, rng)
        sources[:, position] = matches.sources(rows, picks)
        tokens[:, position] = matches.next_tokens(rows, picks)
    progress.close()
    return Samples(tokens, sources)


def matches_at_every_position(
    index: Index, settings: Settings, drawn: NDArray[np.uint16], rng: np.random.Generator
) -> Iterator[Matches]:
    """The matches of every position of `drawn` [n, L], by the protocol of matches.py."""
    if settings.method == "ntd":
        return matches_anywhere(index, drawn, settings.context)
    if settings.method == "aligned":
        return aligned_matches(index, settings, drawn)
    if settings.method == "smoothed":
        return smoothed_matches(index, settings, drawn, rng)
    return kernel_matches(index, settings, drawn, rng)
