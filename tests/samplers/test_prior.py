"""A sampler behind the interface of search-over-tokens, of whose base class there is a stub."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from imagegram.samplers import Aligned
from imagegram.samplers.prior import NgramPrior
from tests.support.corpora import index_of


class BaseARPrior(ABC):
    """What search-over-tokens asks of a prior."""

    def __init__(self, config: dict[str, Any], device: str = "cuda"):
        self.config = config
        self.device = device
        self.rng = torch.Generator(device=device)

    def set_seed(self, seed: int) -> "BaseARPrior":
        self.rng.manual_seed(seed)
        return self

    @abstractmethod
    def generate_next_tokens(
        self, prompt: Any, current_tokens: Any, num_new_tokens: int, num_samples: int, **kwargs: Any
    ) -> Any: ...

    @abstractmethod
    def decode_tokens(self, tokens: torch.Tensor, **kwargs: Any) -> list[Any]: ...

    @abstractmethod
    def get_vocab_size(self) -> int: ...

    @abstractmethod
    def get_max_tokens(self) -> int: ...


class Prior(NgramPrior, BaseARPrior):
    """With a decoder."""

    def decode_tokens(self, tokens: torch.Tensor, **kwargs: Any) -> list[Any]:
        return tokens.tolist()


@pytest.fixture
def prior(tmp_path: Path) -> Prior:
    index = index_of(tmp_path, np.random.default_rng(0).integers(0, 6, (200, 8)))
    options = {"context": 1, "min_images": 1}
    return Prior({"index": index.path, "sampler": "aligned", "options": options}, "cpu")


def test_it_proposes_as_its_sampler_draws(prior: Prior) -> None:
    prior.set_seed(0)
    assert (prior.get_vocab_size(), prior.get_max_tokens()) == (512, 8)
    nothing = torch.zeros((1, 0), dtype=torch.int64)
    first, chances = prior.generate_next_tokens("a cat", nothing, num_new_tokens=2, num_samples=3)
    assert first.shape == (3, 2)
    assert chances.shape == (3,)
    many, chances = prior.generate_next_tokens("a cat", first[:2], num_samples=4000)
    assert many.shape == (8000, 3)
    assert (many[:4000, :2] == first[0]).all()
    assert (many[4000:, :2] == first[1]).all()

    # The chances are those of the sampler, and those of what was drawn.
    sampler = Aligned(context=1, min_images=1)
    wanted = sampler.probabilities(prior.index, many.numpy().astype(np.uint16))[:, 2]
    assert chances.numpy() == pytest.approx(np.log(wanted), rel=1e-5)
    for token in range(6):
        here = (many[:4000, 2] == token).numpy()
        if here.any():
            assert here.mean() == pytest.approx(np.exp(chances[:4000][here][0].item()), abs=0.03)
    assert prior.decode_tokens(many[:1]) == many[:1].tolist()


def test_a_beam_search_ends_with_a_whole_image_that_the_seed_decides(prior: Prior) -> None:
    def search(seed: int) -> list[list[int]]:
        prior.set_seed(seed)
        beams = torch.zeros((1, 0), dtype=torch.int64)
        for _ in range(8):
            candidates, chances = prior.generate_next_tokens(["a cat"], beams, num_samples=4)
            beams = candidates[(candidates.float().mean(1) + 0.1 * chances).topk(2).indices]
        return beams.tolist()

    assert search(1) == search(1)
    assert search(1) != search(2)
    assert len(search(1)[0]) == 8
