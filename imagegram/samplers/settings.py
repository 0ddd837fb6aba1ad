"""How to sample: the settings of every sampler."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from imagegram.cli import UserError

METHODS = ("ntd", "aligned", "smoothed", "kernel")


@dataclass(frozen=True)
class Settings:
    """How a sequence is drawn."""

    method: str = "aligned"  # ntd | aligned | smoothed | kernel
    context: int = 2  # ntd, aligned, smoothed: tokens of context at most; 0: each position on its own
    min_images: int = 2  # aligned: images that must share a context, else it is shortened; 1 copies
    anchor: int = 0  # aligned: first tokens that must match besides
    step: float = 1.0  # kernel: how far tokens step from their sources; 1: as fitted, 0: tokens as they stand
    temperature: float = 1.0  # below 1 sharpens the distribution, above 1 flattens it
    top_k: int = 0  # most likely tokens kept; 0: all
    top_p: float = 1.0  # the fewest tokens kept that have this probability together
    label: int = -1  # class of the image that gives the first token; -1: any
    tokens: int = 0  # first tokens drawn, the decoder fills in the rest; 0: all
    given: int = 0  # of these, first tokens taken from held-out images and completed

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> "Settings":
        """Settings that were stored: a field that did not exist yet has its default, one that is gone is left out."""
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in stored.items() if name in known})

    def describe(self) -> str:
        """The values that matter, as text."""
        names = {"ntd": ["context"], "aligned": ["context", "min_images", "anchor"]}
        names |= {"smoothed": ["context"], "kernel": ["step"]}
        shown = names.get(self.method, []) + [
            name
            for name, usual in (
                ("temperature", 1),
                ("top_k", 0),
                ("top_p", 1),
                ("label", -1),
                ("tokens", 0),
                ("given", 0),
            )
            if getattr(self, name) != usual
        ]
        return f"{self.method}: {', '.join(f'{name} {getattr(self, name)}' for name in shown)}"

    @property
    def reweighted(self) -> bool:
        """Whether the distribution is not to be drawn from as it is."""
        return self.temperature != 1 or self.top_k > 0 or self.top_p < 1

    def check(self) -> None:
        """UserError where a value makes no sense."""
        if self.method not in METHODS:
            raise UserError(f"unknown method {self.method!r}: one of {', '.join(METHODS)}")
        if min(self.min_images, self.temperature) <= 0:
            raise UserError("min_images and temperature must be positive")
        if min(self.context, self.anchor, self.top_k) < 0 or not 0 < self.top_p <= 1:
            raise UserError("context, anchor and top_k must not be negative, top_p lies between 0 and 1")
        if min(self.tokens, self.given) < 0 or (self.tokens and self.given >= self.tokens):
            raise UserError("tokens and given tokens must not be negative, and one must be left to draw")
        if not 0 <= self.step <= 10:
            raise UserError("step lies between 0 (tokens as they stand) and 10; 1 is what was fitted")
        if self.anchor and self.method != "aligned":
            raise UserError(f"anchor belongs to the method aligned, not to {self.method}: set it to 0")


def sweep(method: str, **values: Sequence[float]) -> dict[str, Settings]:
    """Every combination of values of the fields, by a name that says which: sweep("ntd", context=(1, 3))."""
    combinations = itertools.product(*values.values())
    named = {}
    for combination in combinations:
        changed: dict[str, Any] = dict(zip(values, combination, strict=True))
        name = "-".join([method, *(f"{field}{value}" for field, value in changed.items())])
        named[name] = replace(Settings(method), **changed)
    return named
