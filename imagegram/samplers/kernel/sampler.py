"""The sampler `kernel`: its fields. PyTorch is imported when it is first asked to draw."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from imagegram.cli import UserError
from imagegram.index.folder import Index
from imagegram.samplers.base import Sampler
from imagegram.samplers.kernel import VERSION
from imagegram.samplers.matches import Floats, Ints, Matches, Tokens

if TYPE_CHECKING:
    from imagegram.samplers.kernel.drawing import Drawing
    from imagegram.samplers.kernel.model import MovedVotes

MOST_STEP = 10
PAIRS = 1 << 30  # of a sequence and a digit of a training image, compared in a few minutes


@dataclass(frozen=True, kw_only=True)
class Kernel(Sampler):
    """Moved votes: one image gives each token, moved by what the difference of their contexts
    makes.

    Temperature acts on the votes and on the widths of the steps, top-k and top-p on each digit.
    Drawn as fitted, at temperature 1, images are less coherent than real ones.
    """

    name = "kernel"
    version = VERSION
    how = (
        "One training image gives the next token, the likelier the nearer it is so far, moved by "
        "the difference"
    )

    step: float = 1.0
    """how far tokens are moved from their sources; 1: as fitted, 0: tokens as they stand"""
    temperature: float = 0.1  # below 1 sharpens votes and steps; 1: as fitted

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.step <= MOST_STEP:
            said = f"step lies between 0 (tokens as they stand) and {MOST_STEP}"
            raise UserError(f"{said}; 1 is what was fitted")

    def matches(self, index: Index, drawn: Tokens, rng: np.random.Generator) -> Iterator[Matches]:
        from imagegram.samplers.kernel.drawing import model_matches

        return model_matches(self.prepare(index), index.tokens, drawn, rng, self._drawing())

    def probabilities(
        self, index: Index, tokens: Tokens, *, leave_out: Ints | None = None
    ) -> Floats:
        from imagegram.samplers.kernel.drawing import model_probabilities

        model, drawing = self.prepare(index), self._drawing()
        return model_probabilities(model, index.tokens, tokens, drawing, leave_out=leave_out)

    def _drawing(self) -> "Drawing":
        from imagegram.samplers.kernel.drawing import Drawing

        truncated = self.top_k > 0 or self.top_p < 1
        reweigh = replace(self, temperature=1.0).reweigh if truncated else None
        return Drawing(self.step, self.temperature, reweigh)

    def prepare(self, index: Index) -> "MovedVotes":
        """The model fitted to the images of `index`, now or before: the fit is kept beside it."""
        from imagegram.samplers.kernel.fit import open_kernel

        return open_kernel(index)

    def relevance(self, index: Index) -> NDArray[np.float32]:
        return self.prepare(index).listening().numpy()

    def reasons(self, index: Index, tokens: Tokens, sources: Ints) -> Ints:
        from imagegram.samplers.kernel.drawing import model_reasons

        return model_reasons(self.prepare(index), index.tokens, tokens, sources)

    def affordable_share(self, index: Index, sequences: int) -> float:
        pairs = sequences * index.tokens.size * max(1, len(index.levels))
        return max(0.025, min(1.0, PAIRS / pairs))

    def memory(self, corpus: int, digits: int) -> int:
        return 5 * digits * corpus  # a byte and a float for each digit of the codes
