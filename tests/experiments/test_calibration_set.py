"""The calibration set: what is known of a set is what a measure finds in it."""

import numpy as np
import pandas as pd
import pytest

from experiments.calibration_set import measure, seen


def test_a_set_whose_half_is_copied_has_that_rate() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (200, 8, 8)).astype(np.uint8)
    held_out = images[120:200]
    mixed = np.concatenate([images[:20], held_out[20:40]])
    sets = {"pictures": np.stack([mixed]), "training": images[:120], "held_out": held_out}
    found = measure(sets, 0, 0)
    for key in ("f_mem", "near_duplicates", "calibrated"):
        assert found["generated"][key].value == pytest.approx(0.5)
        assert found["held_out"][key].value == 0


def test_a_measure_sees_a_rate_where_it_sees_all_larger_ones_too() -> None:
    def rows(key: str, values: list[float]) -> list[dict[str, object]]:
        real = {"measure": key, "held_out_low": 0.0, "held_out_high": 0.1}
        return [
            {"set": f"mixed-{share}", "truth": share, "low": v, "high": v + 0.1} | real
            for share, v in zip((0.01, 0.05, 0.2, 0.5), values, strict=True)
        ]

    every = rows("f_mem", [0.05, 0.2, 0.3, 0.5]) + rows("fd", [0.2, 0, 0, 0])
    found = seen(pd.DataFrame(every + rows("kid", [0] * 4)))
    assert (found["f_mem"], found["fd"], found["kid"]) == ("0.050", "none", "none")
