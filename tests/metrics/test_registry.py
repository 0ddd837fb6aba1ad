"""Every metric has its words in one place, and a cell for whatever was measured."""

import importlib

from imagegram.metrics.intervals import Figure
from imagegram.metrics.registry import (
    BY_KEY,
    COHERENCE,
    COLUMNS,
    EXACT_COPY_PROBABILITY,
    METRICS,
    OTHERS,
    SETS,
)


def test_every_metric_is_computed_where_the_table_says() -> None:
    assert len(BY_KEY) == len({*METRICS, *OTHERS, *SETS}) + 1  # and sample_bits
    for metric in BY_KEY.values():
        module, name = metric.where.split(".")
        assert hasattr(importlib.import_module(f"imagegram.metrics.{module}"), name), metric.where


def test_what_is_not_shown_is_in_the_csv_alone() -> None:
    hidden = {metric.key for metric in METRICS} - {metric.key for metric in COLUMNS}
    assert hidden == {"left_out_bits", "pieces", "copied_share", "nearest_in_codes"}
    meaning = BY_KEY["f_mem"].meaning
    assert meaning.endswith(" codes (better: lower, as for real images; Yoon et al., 2023)")


def test_cells_show_small_probabilities_and_dashes() -> None:
    key = EXACT_COPY_PROBABILITY.key
    cell = EXACT_COPY_PROBABILITY.cell({key: Figure(7.2e-10, 7e-10, 8e-10)})
    assert cell == ("7.2e-10", "7.0e-10 to 8.0e-10")
    assert EXACT_COPY_PROBABILITY.text({key: Figure.exactly(0.395)}) == "0.395 (exact)"
    assert all(metric.text({}) == "-" for metric in COLUMNS)
    for images, said in ((1, "from 1 image"), (2, "from 2 images")):
        figures = {"cannot_be_told": {"coherence": images}}
        assert COHERENCE.cell(figures) == ("cannot be told", said)
        assert COHERENCE.text(figures) == f"cannot be told ({said})"


def test_extraction_is_shown_after_the_first_half_beside_that_of_held_out_images() -> None:
    chances = {"1": Figure(1e-9, 0, 1), "8": Figure(7.8e-5, 0, 1)}
    real = {"1": Figure(1e-12, 0, 1), "8": Figure(8.8e-10, 0, 1)}
    for figures, below in (
        ({"training": chances, "held_out": real}, "held out: 8.8e-10"),
        ({"training": chances}, ""),
    ):
        assert BY_KEY["extraction"].cell({"extraction": figures}) == ("7.8e-05", below)
