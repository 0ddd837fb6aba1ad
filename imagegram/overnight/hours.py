"""How long the samplers of a night take, and which of its sweep fit into the hours."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from imagegram.overnight.plan import Plan
from imagegram.overnight.trial import Kind, kind_of
from imagegram.report.record import Night


@dataclass
class Forecast:
    """What is known of the time, in seconds: from samplers that were run, and of the others from trials."""

    plan: Plan
    night: Night
    started: float  # of the monotonic clock, when the command was
    tried: dict[Kind, float] = field(default_factory=dict)  # a sampler of each kind, with its pictures
    page: float = 0.0  # writing it, which is done after every sampler

    @property
    def left(self) -> float:
        """Until the hours are over; negative behind that."""
        return self.started + 3600 * self.plan.hours - time.monotonic()

    def is_known(self, name: str) -> bool:
        """Whether a sampler, or another of its kind, was run or tried."""
        return name in self.night.seconds or self._kind(name) in self.tried or bool(self._alike(name))

    def seconds(self, name: str) -> float:
        """How long a sampler takes, with the page: as it did before, as others of its kind did, or as all did; 0 where
        none was run or tried."""
        if name in self.night.seconds:
            return self.night.seconds[name] + self.page
        known = self._alike(name)
        if not known and self._kind(name) in self.tried:
            return self.tried[self._kind(name)] + self.page
        known = known or [s for other, s in self.night.seconds.items() if other in self.night.samplers]
        return sum(known) / len(known) + self.page if known else 0.0

    def _kind(self, name: str) -> Kind:
        return kind_of(self.night.settings(name))

    def _alike(self, name: str) -> list[float]:
        """How long other samplers of the same kind took."""
        kind = self._kind(name)
        measured = self.night.seconds.items()
        return [s for other, s in measured if other in self.night.samplers and self._kind(other) == kind]

    def unfinished(self, names: Sequence[str]) -> list[str]:
        """Those of some samplers that are still to be run."""
        return [name for name in names if name not in self.night.failed and not self._is_finished(name)]

    def _is_finished(self, name: str) -> bool:
        return self.night.is_finished(self.plan.out, name)

    def fits(self, name: str) -> bool:
        """Whether a sampler is to be run now: all but those of the sweep that would end after the hours."""
        return name in self.plan.samplers or self._is_finished(name) or self.seconds(name) <= self.left

    def chosen(self, names: Sequence[str]) -> list[str]:
        """Those of `names`, which are run one after another, that fit."""
        left = self.left
        found = []
        for name in names:
            if name in self.plan.samplers or self.seconds(name) <= left:
                found.append(name)
                left -= self.seconds(name)
        return found

    def why_left_out(self, name: str) -> str:
        """One line about a sampler that does not fit."""
        need = clock(self.seconds(name))
        left = clock(max(0.0, self.left))
        return f"{name} is left out: it takes about {need}, of {self.plan.hours:g} hours {left} are left"

    def said(self, names: Sequence[str]) -> str:
        """One line about the hours, before any of `names` is run."""
        todo = self.unfinished(names)
        chosen = self.chosen(todo)
        taken = sum(map(self.seconds, chosen))
        own = sum(self.seconds(name) for name in chosen if name in self.plan.samplers)
        line = f"{len(chosen)} of {len(todo)} samplers fit into {self.plan.hours:g} hours and take about {clock(taken)}"
        if own > max(0.0, self.left):
            line += f"; those that are no sweep are run all the same, and take about {clock(own)}"
        return line

    def time_left(self, names: Sequence[str]) -> str:
        """How long those of `names` that fit will take, in words; nothing where that is not known or under a minute."""
        todo = self.unfinished(names)
        if self.plan.hours:
            todo = self.chosen(todo)
        minutes = sum(map(self.seconds, todo)) / 60
        return f" (about {minutes:.0f} min left)" if minutes >= 1 else ""


def clock(seconds: float) -> str:
    """A duration in words."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
