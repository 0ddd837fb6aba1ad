"""A sampler as the prior of a search over tokens, which proposes the next tokens of sequences.

The four methods are those of `BaseARPrior` of search-over-tokens (EPFL-VILAB), which this file does
not import.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from imagegram.index.folder import Index
from imagegram.samplers import sampler_named


class NgramPrior:
    """To be mixed in before a prior that decodes: docs/your_own.md shows how.

    config: "index", the folder; "sampler" and "options", its name and fields (kernel and its
    defaults).
    """

    rng: torch.Generator  # of the search, which seeds it

    def __init__(self, config: dict[str, Any], device: str = "cpu"):
        super().__init__(config, device)  # type: ignore[call-arg]
        self.index = Index.open(Path(config["index"]))
        self.sampler = sampler_named(config.get("sampler", "kernel"), **config.get("options", {}))

    def generate_next_tokens(
        self,
        prompt: Any,
        current_tokens: Tensor,
        num_new_tokens: int = 1,
        num_samples: int = 1,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor]:
        """`num_samples` continuations of each of `current_tokens` [batch, k], drawn by the sampler;
        no text is read.

        Returns the whole sequences, int64 [batch * num_samples, k + num_new_tokens], those of one
        beginning side by side, and the natural logarithm of the chance of their new tokens, float32
        [batch * num_samples].
        """
        begun = current_tokens.cpu().numpy().astype(np.uint16).repeat(num_samples, axis=0)
        seed = int(torch.randint(2**62, (1,), generator=self.rng, device=self.rng.device))
        known = begun.shape[1]
        length = known + num_new_tokens
        rng = np.random.default_rng(seed)
        drawn = self.sampler.sample(self.index, len(begun), rng, length=length, prefix=begun).tokens
        with np.errstate(divide="ignore"):
            chances = np.log(self.sampler.probabilities(self.index, drawn)[:, known:]).sum(1)
        sequences = torch.from_numpy(drawn.astype(np.int64))
        device = current_tokens.device
        return sequences.to(device), torch.from_numpy(chances).float().to(device)

    def get_vocab_size(self) -> int:
        """How many tokens there are."""
        return self.index.vocab_size

    def get_max_tokens(self) -> int:
        """Tokens of a whole image."""
        return self.index.tokens_per_image
