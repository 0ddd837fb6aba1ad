"""What the tests of samplers share: kernels that are hardly fitted."""

import pytest


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imagegram.samplers.kernel.fit.STEPS", 3)
