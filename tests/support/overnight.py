"""overnight_run.py in small: a night of seconds over two data sets."""

from pathlib import Path

import pytest

import overnight_run
from imagegram import generating, tokenizing
from imagegram.codec import miniatures
from imagegram.metrics import coherence
from imagegram.samplers import Aligned, Ntd
from overnight import night
from overnight.plan import sweep
from tests.support.nights import ColourCodec
from tests.support.scripts import run_overnight

BOTH = "--dataset digits shapes --images 300 --sequences 30 --decoded 6"


def run(out: Path, *words: str, ends: int = 0) -> str:
    """What `overnight_run.py` says, run into a folder."""
    return run_overnight(BOTH, f"--out {out}", *words, ends=ends)


def make_nights_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A free codec, three samplers, a sweep of four, classifiers hardly trained."""
    codec = ColourCodec()
    monkeypatch.setattr(tokenizing, "load_codec", lambda name: codec)
    monkeypatch.setattr(generating, "load_codec", lambda name, revision: codec)
    monkeypatch.setattr(miniatures, "revision", lambda folder: codec.revision)
    monkeypatch.setattr(night, "WORKERS", 0)
    monkeypatch.setattr(coherence, "STEPS", 2)
    samplers = {"two": Aligned(), "copies": Ntd(context=9), "one": Aligned(context=0)}
    monkeypatch.setattr(overnight_run, "SAMPLERS", samplers)
    monkeypatch.setattr(overnight_run, "SWEEP", sweep(Ntd, context=(1, 2), temperature=(0.5, 1.0)))
    monkeypatch.setattr(overnight_run, "PREFIXES", 1)
