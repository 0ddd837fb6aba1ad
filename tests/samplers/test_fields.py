"""Samplers by name: their fields, what they refuse, how they are described and read again, and what
is drawn."""

import json
from pathlib import Path

import numpy as np
import pytest

from imagegram.cli import UserError
from imagegram.samplers import (
    SAMPLERS,
    Aligned,
    Kernel,
    Sampler,
    Smoothed,
    sampler_from,
    sampler_named,
)
from imagegram.samplers.draw import Draw
from overnight.plan import sweep
from tests.support.corpora import index_of

SMALL = np.random.default_rng(5).integers(0, 3, (30, 5))


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("bigram", {}, "no sampler 'bigram': take one of kernel, aligned, smoothed, ntd"),
        ("smoothed", {"anchor": 1}, "the sampler smoothed has no anchor, but temperature, top_k"),
        ("aligned", {"context": -1}, "must not be negative"),
        ("smoothed", {"context": -1}, "must not be negative"),
        ("ntd", {"context": -1}, "must not be negative"),
        ("aligned", {"anchor": -1}, "must not be negative"),
        ("aligned", {"min_images": 0}, "must be positive"),
        ("kernel", {"step": 10.5}, "step lies between 0"),
        ("kernel", {"step": -0.1}, "must not be negative"),
        ("kernel", {"temperature": -1}, "must not be negative"),
        ("kernel", {"temperature": 0}, "must be positive"),
        ("kernel", {"top_k": -1}, "must not be negative"),
        ("kernel", {"top_p": 0}, "between 0 and 1"),
        ("kernel", {"top_p": 1.1}, "between 0 and 1"),
    ],
)
def test_values_that_make_no_sense_are_refused(
    name: str, values: dict[str, float], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        sampler_named(name, **values)


def test_an_anchor_that_no_image_shares_with_a_prompt_is_refused(tmp_path: Path) -> None:
    index = index_of(tmp_path, SMALL)
    unknown = np.full((3, 2), 400, np.uint16)
    with pytest.raises(UserError, match="no training image has the anchor"):
        Aligned(anchor=1).sample(index, 3, np.random.default_rng(0), prefix=unknown)
    assert not Aligned(anchor=1).probabilities(index, unknown).any()
    known = Aligned(anchor=1).sample(
        index, 30, np.random.default_rng(0), prefix=index.tokens[:, :1]
    )
    assert np.array_equal(index.tokens[known.sources[:, 1, 0], 0], index.tokens[:, 0])


@pytest.mark.parametrize("kind", SAMPLERS.values(), ids=SAMPLERS)
def test_a_sampler_says_what_it_is_and_is_read_again(kind: type[Sampler]) -> None:
    assert SAMPLERS[kind.name] is kind
    assert kind().how
    changed = kind(temperature=0.5, label="3")
    assert changed.changes() == {"temperature": 0.5, "label": "3"}
    assert sampler_from(json.loads(json.dumps(changed.to_json())) | {"seed": 3}) == changed
    assert sampler_from(kind().to_json()) != changed
    assert sampler_named(changed, temperature=0.7) == kind(temperature=0.7, label="3")
    with pytest.raises(UserError, match="made by an earlier version"):
        sampler_from({"context": 2})


def test_without_context_a_sampler_says_that_every_position_stands_alone() -> None:
    assert Aligned(context=0).how == Smoothed(context=0).how != Aligned().how != Smoothed().how


def test_what_is_drawn_is_described_and_read_again(tmp_path: Path) -> None:
    index = index_of(tmp_path, SMALL)
    draw = Draw(Aligned(context=1), length=4, prompt=2)
    assert draw.describe() == "aligned: context 1, min_images 2, anchor 0, length 4, prompt 2"
    assert Draw.from_json(json.loads(json.dumps(draw.to_json()))) == draw
    whole = [
        draw,
        Draw(Kernel()),
        Draw(Kernel(), length=5),
        Draw(Kernel(), length=4),
        Draw(Kernel(label="1")),
    ]
    assert [one.is_whole(index) for one in whole] == [False, True, True, False, False]
    draw.check(index)
    for wrong, message in (
        (Draw(Kernel(), length=6), "has 5"),
        (Draw(Kernel(), prompt=5), "has 5"),
        (Draw(Kernel(label="3")), "no image of class '3'"),
    ):
        with pytest.raises(UserError, match=message):
            wrong.check(index)
    for length, prompt in ((-1, 0), (0, -1), (3, 3)):
        with pytest.raises(UserError, match="one must be left to draw"):
            Draw(Kernel(), length, prompt)


def test_a_sweep_has_every_combination_of_values_by_a_name_that_says_which() -> None:
    draws = sweep(Kernel, step=(0.5, 1.0), prompt=(0, 2))
    assert draws["kernel-step0.5-prompt2"] == Draw(Kernel(step=0.5), prompt=2)
    assert len(draws) == 4
    with pytest.raises(TypeError, match="context"):
        sweep(Kernel, context=(1,))
