"""Samplers: the next token of an image from what followed its tokens so far in the index.

Every sampler turns the tokens so far into matches, positions in the corpus where the same context
stands, and draws one: its next token is emitted, and its image and position are the token's source.
A match drawn uniformly draws the token from the exact next-token distribution of the context. A new
sampler is a file here and its class in SAMPLERS.
"""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from imagegram.cli import UserError
from imagegram.samplers.aligned import Aligned
from imagegram.samplers.base import Sampler
from imagegram.samplers.base import Samples as Samples
from imagegram.samplers.kernel.sampler import Kernel
from imagegram.samplers.ntd import Ntd
from imagegram.samplers.smoothed import Smoothed

SAMPLERS: dict[str, type[Sampler]] = {kind.name: kind for kind in (Kernel, Aligned, Smoothed, Ntd)}


def sampler_named(name: str | Sampler, **values: Any) -> Sampler:
    """The sampler of a name and values of its fields, or one with other values; else UserError.

    >>> sampler_named("aligned", context=3).describe()
    'aligned: context 3, min_images 2, anchor 0'
    """
    if isinstance(name, Sampler):
        return sampler_named(name.name, **name.changes() | values)
    if name not in SAMPLERS:
        raise UserError(f"there is no sampler {name!r}: take one of {', '.join(SAMPLERS)}")
    known = [field.name for field in fields(SAMPLERS[name])]
    if unknown := [field for field in values if field not in known]:
        raise UserError(f"the sampler {name} has no {', '.join(unknown)}, but {', '.join(known)}")
    return SAMPLERS[name](**values)


def sampler_from(stored: Mapping[str, Any]) -> Sampler:
    """The sampler that `to_json` wrote into `stored`, among whatever else stands there.

    >>> sampler_from({"sampler": "ntd", "context": 4, "seed": 1}).describe()
    'ntd: context 4'
    """
    if "sampler" not in stored:
        said = "it was made by an earlier version of Imagegram"
        raise UserError(f"{said}: delete it, then run the same command again")
    name = stored["sampler"]
    known = [field.name for field in fields(SAMPLERS.get(name, Sampler))]
    return sampler_named(name, **{field: stored[field] for field in known if field in stored})
