"""A training goes on only from checkpoints of the same recipe: each input of it is changed once."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import train_tiny_flextok as script
from imagegram.artifact import Artifact
from imagegram.cli import UserError
from imagegram.codec import miniatures
from imagegram.data.dataset import DatasetOptions
from training.images import Images

PIXELS = torch.zeros((30, 3, 32, 32), dtype=torch.uint8)
IMAGES = Images("cats", "a fingerprint", PIXELS, torch.zeros(30), torch.arange(30) < 3)
CHANGES: list[tuple[str, dict[str, Any]]] = [
    ("data_sets", {"name": "owls"}),
    ("data_sets", {"fingerprint": "another"}),
    ("columns", {"image_column": "img"}),
    ("columns", {"label_column": "kind"}),
    ("images", {"pixels": PIXELS[:29]}),
    ("split", {"each": DatasetOptions(images=60_000, split="test")}),
    ("image_size", {"image_size": 64}),
    ("tokens", {"tokens": 8}),
    ("levels", {"levels": (8, 8)}),
    ("start", {"start": "fashion"}),
    ("encoder_steps", {"encoder_steps": 5}),
    ("seed", {"seed": 1}),
    ("version", {"VERSION": 99}),
    ("start_revision", {"revision": lambda folder: "trained anew"}),
]


def recipe_of(**changes: Any) -> dict[str, Any]:
    """The recipe of cats, with changes of the options or of the images."""
    of_images = {name: changes.pop(name) for name in vars(IMAGES).keys() & changes.keys()}
    config = script.Config(**{"start": "tiny"} | changes)
    return script.make_recipe(config, script.steps_of(config), [replace(IMAGES, **of_images)])


def test_every_input_is_changed() -> None:
    assert {key for key, _ in CHANGES} | {"decoder_steps"} == recipe_of().keys()  # test_loop.py


@pytest.mark.parametrize(("key", "changes"), CHANGES)
def test_checkpoints_of_another_recipe_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, changes: dict[str, Any]
) -> None:
    usual, place = recipe_of(), Artifact(tmp_path, "codec")
    place.claim()
    script.remember(place, usual)
    script.remember(place, usual)  # goes on
    for place_of, name in ((script, "VERSION"), (miniatures, "revision")):
        if name in changes:
            monkeypatch.setattr(place_of, name, changes[name])
            changes = {}
    other = recipe_of(**changes)
    assert key in {name for name in usual if usual[name] != other[name]}
    with pytest.raises(UserError, match=r"belongs to another training \(.*: choose another --out"):
        script.remember(place, other)
    assert place.record() == usual
