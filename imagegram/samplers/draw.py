"""What is drawn with a sampler: whole sequences, their first tokens, or the rest after a prompt."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from imagegram.cli import UserError
from imagegram.index.folder import Index
from imagegram.samplers import Sampler, sampler_from


@dataclass(frozen=True)
class Draw:
    """A sampler, and how much of every sequence it draws."""

    sampler: Sampler
    length: int = 0  # first tokens of a sequence, the decoder fills in the rest; 0: all
    prompt: int = 0  # of these, first tokens taken from held-out images and completed

    def __post_init__(self) -> None:
        """UserError where a number makes no sense."""
        if min(self.length, self.prompt) < 0 or 0 < self.length <= self.prompt:
            raise UserError(f"{self._numbers()}: one must be left to draw")

    def check(self, index: Index) -> None:
        """UserError where it cannot be drawn from `index`."""
        whole = index.tokens_per_image
        if self.length > whole or self.prompt >= whole:
            raise UserError(f"{self._numbers()}: an image of {index.path} has {whole}")
        if self.sampler.label:
            index.class_of(self.sampler.label)

    def _numbers(self) -> str:
        return f"a prompt of {self.prompt} tokens and a length of {self.length}"

    def is_whole(self, index: Index) -> bool:
        """Whether the sampler alone draws whole sequences, so that their chances are known."""
        whole = self.length in (0, index.tokens_per_image)
        return whole and not self.prompt and not self.sampler.label

    def describe(self) -> str:
        """The values that matter, as text.

        >>> from imagegram.samplers import Kernel
        >>> Draw(Kernel(), prompt=4).describe()
        'kernel: step 1.0, prompt 4'
        """
        length = f", length {self.length}" if self.length else ""
        prompt = f", prompt {self.prompt}" if self.prompt else ""
        return self.sampler.describe() + length + prompt

    def to_json(self) -> dict[str, Any]:
        return self.sampler.to_json() | {"length": self.length, "prompt": self.prompt}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Draw":
        """What `to_json` wrote, among whatever else stands there."""
        return cls(sampler_from(stored), stored["length"], stored["prompt"])
