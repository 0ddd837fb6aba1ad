"""Folders of miniatures: those that are shipped, and those that train_tiny_flextok.py writes.

    weights.safetensors    the weights, float16, with the sizes of the network in the header
    card.json              what it was trained on and what it can do, see training/card.py

What only a name needs is here, so that nothing waits for torch.
"""

from pathlib import Path
from typing import Any

from imagegram.cli import UserError
from imagegram.files import sha256

SHIPPED = Path(__file__).parent / "weights"
WEIGHTS = "weights.safetensors"
CARD = "card.json"


def shipped() -> list[str]:
    """Names of the miniatures that the repository carries."""
    return sorted(file.parent.name for file in SHIPPED.glob(f"*/{WEIGHTS}"))


def find(name: str) -> Path | None:
    """The folder of the miniature that is shipped under `name`, or that `name` is the path of; None
    where neither."""
    if name in shipped():
        return SHIPPED / name
    folder = Path(name).expanduser()
    if (folder / WEIGHTS).exists():
        return folder
    if (folder / "training").is_dir():
        raise UserError(
            f"the training of the codec {folder} is not finished: the command that began it goes "
            "on from there"
        )
    return None


def revision(folder: Path) -> str:
    """What tells the weights in a miniature's folder from others."""
    return sha256(folder / WEIGHTS)[:16]


def own_error(card: dict[str, Any]) -> tuple[float, float]:
    """Errors of reconstructions of held-out images in levels of 255: median and the 95th
    percentile, of that of the codec's data sets where it is largest."""
    worst = max(card["data_sets"].values(), key=lambda figures: figures["error_95"])
    return worst["error"], worst["error_95"]
