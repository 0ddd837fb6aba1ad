"""What a sampler is: its fields, the matches of every position, the chance of a sequence."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from imagegram.cli import UserError
from imagegram.index.folder import Index
from imagegram.samplers.matches import (
    Ints,
    Matches,
    Reweigh,
    Tokens,
    draw_match,
    matches_of_class,
    share_of,
    truncated,
)


@dataclass(frozen=True)
class Samples:
    """Drawn sequences, and where their tokens come from."""

    tokens: Tokens  # uint16 [n, k]
    sources: Ints  # int64 [n, k, 2]: row of `Index.tokens` and position


@dataclass(frozen=True, kw_only=True)
class Sampler(ABC):
    """A sampler of token sequences; a subclass adds the fields that it needs, and yields matches.

    Temperature, top-k and top-p act on the final distribution, after any smoothing.
    """

    name: ClassVar[str]  # on the command line, and of folders
    version: ClassVar[int] = 0  # one more with every change of the code that changes what is drawn

    temperature: float = 1.0  # below 1 sharpens the distribution, above 1 flattens it
    top_k: int = 0  # most likely tokens kept; 0: all
    top_p: float = 1.0  # the fewest tokens kept that have this probability together
    label: str = ""  # class of the image that gives the first token, NAME or SOURCE:NAME; "": any

    def __post_init__(self) -> None:
        """UserError where a value makes no sense. No number may be negative, of subclasses too."""
        for name, value in self._values().items():
            if name != "label" and value < 0:
                raise UserError(f"{name} {value}: it must not be negative")
        if self.temperature == 0:
            raise UserError("temperature 0: it must be positive; 0.01 takes the most likely tokens")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p {self.top_p}: it lies between 0 and 1")

    @property
    @abstractmethod
    def how(self) -> str:
        """What it does, as a sentence without its full stop."""

    @abstractmethod
    def matches(self, index: Index, drawn: Tokens, rng: np.random.Generator) -> Iterator[Matches]:
        """The matches of every position of `drawn` [n, L], by the protocol of matches.py."""

    def prepare(self, index: Index) -> object:
        """Make what is made once for an index and kept beside it, such as a fit."""
        return None

    def probabilities(
        self, index: Index, tokens: Tokens, *, leave_out: Ints | None = None
    ) -> NDArray[np.float64]:
        """p(x_i | x_1 .. x_{i-1}) of every token of `tokens` [n, k]: float64 [n, k], 0 where it
        cannot be drawn.

        leave_out: int64 [n], where the sequences are different rows of the index: each is then
        predicted from all the others (leave-one-out; where nothing else has its context, 0).
        """
        result = np.empty(tokens.shape)
        every = self.matches(index, tokens, np.random.default_rng(0))
        bar = tqdm(every, total=tokens.shape[1], desc="likelihood", unit="position", delay=3)
        for position, matches in enumerate(bar):
            result[:, position] = share_of(matches, tokens[:, position], self.reweigh, leave_out)
        return result

    def sample(
        self,
        index: Index,
        n: int,
        rng: np.random.Generator,
        *,
        length: int = 0,
        prefix: Tokens | None = None,
    ) -> Samples:
        """Draw `n` sequences of `length` tokens (0: `index.tokens_per_image`).

        `prefix` [n, p] gives their first tokens; the source of these is (-1, -1).
        """
        whole = index.tokens_per_image
        length = length or whole
        prompt = 0 if prefix is None else prefix.shape[1]
        if not prompt <= length <= whole:
            said = f"{length} tokens after {prompt}"
            raise UserError(f"{said}: an image of {index.path} has {whole}")
        tokens = np.zeros((n, length), np.uint16)
        sources = np.full((n, length, 2), -1, np.int64)
        if prefix is not None:
            tokens[:, :prompt] = prefix

        rows = np.arange(n)
        for position, matches in enumerate(self.matches(index, tokens, rng)):
            if position == 0:  # what is fitted before has bars of its own
                bar = tqdm(None, "sampling", n * length, unit="token", unit_scale=True, delay=3)
            bar.update(n)
            if position < prompt:
                continue
            if position == 0 and self.label:
                matches = matches_of_class(index, self.label, n)
            if not matches.counts.all():
                said = f"{self.describe()}: no training image has the anchor of some prompts"
                raise UserError(f"{said}: set it to 0")
            picks = draw_match(matches, rng, self.reweigh)
            tokens[:, position], sources[:, position] = matches.next_tokens(rows, picks)
        bar.close()
        return Samples(tokens, sources)

    @property
    def reweigh(self) -> Reweigh | None:
        """What makes of weights the probabilities drawn with; None where these are as they are."""
        if (self.temperature, self.top_k, self.top_p) == (1, 0, 1):
            return None
        return lambda weights: truncated(weights, self.temperature, self.top_k, self.top_p)

    # What a sampler may cost or show beyond its tokens. Most cost little and show nothing.

    def affordable_share(self, index: Index, sequences: int) -> float:
        """The fraction of `sequences` whose probabilities can be computed in a few minutes."""
        return 1.0

    def memory(self, corpus: int, digits: int) -> int:
        """Bytes that drawing takes beside an index of `corpus` tokens of `digits` each."""
        return 0

    def relevance(self, index: Index) -> NDArray[np.float32] | None:
        """How much each position looks at each earlier one, [L, L]; None where not fitted."""
        return None

    def reasons(self, index: Index, tokens: Tokens, sources: Ints) -> Ints | None:
        """The earlier tokens that moved each token [n, k] most from its source, a row of the index
        [n, k]: int64 [n, k, 2], -1 where there is none; None where tokens are not moved."""
        return None

    # Its fields, as text and on disk.

    def changes(self) -> dict[str, Any]:
        """The fields that differ from their defaults, its own first.

        >>> from imagegram.samplers import Aligned
        >>> Aligned(temperature=0.5, context=3).changes()
        {'context': 3, 'temperature': 0.5}
        """
        defaults = {field.name: field.default for field in fields(self)}
        return {name: value for name, value in self._values().items() if value != defaults[name]}

    def describe(self) -> str:
        """Its own values as text, and the shared ones that differ from their defaults."""
        shown = [
            f"{name} {value}"
            for name, value in self._values().items()
            if name in self.changes() or not hasattr(Sampler, name)
        ]
        return f"{self.name}: {', '.join(shown)}"

    def to_json(self) -> dict[str, Any]:
        """What `sampler_from` reads."""
        version = {"version": self.version} if self.version else {}
        return {"sampler": self.name} | version | self._values()

    def _values(self) -> dict[str, Any]:
        """All fields, its own first."""
        names = [field.name for field in fields(self)]
        names.sort(key=lambda name: hasattr(Sampler, name))
        return {name: getattr(self, name) for name in names}
