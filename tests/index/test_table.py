"""The builder and the proof against brute force, in parts so small that seams are crossed."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from imagegram.cli import UserError
from imagegram.index.builders import build_with_divsufsort, suits_fastgram
from imagegram.index.table import open_table, pointer_width, pointers_at, verify_table
from imagegram.tokens import SEPARATOR, TERMINATOR
from tests.support.corpora import naive_suffixes, token_arrays

few_examples = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(params=[2, 30])
def small_parts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of a few tokens."""
    monkeypatch.setattr("imagegram.index.table.CHUNK", request.param)
    monkeypatch.setattr("imagegram.index.builders.CHUNK", request.param)


def flat(rows: NDArray[np.int64]) -> NDArray[np.uint16]:
    """Rows [n, L] as a corpus with separators and its ending."""
    lines = np.insert(rows, 0, SEPARATOR, axis=1).ravel()
    return np.append(lines, [SEPARATOR, SEPARATOR, TERMINATOR]).astype(np.uint16)


@few_examples
@given(token_arrays(max_images=6, max_length=40))
def test_any_corpus_is_sorted_as_its_bytes_are(
    small_parts: None, tmp_path_factory: pytest.TempPathFactory, rows: NDArray[np.int64]
) -> None:
    tokens = flat(rows)
    path = tmp_path_factory.mktemp("table") / "table.0"
    build_with_divsufsort(tokens, path)
    found = pointers_at(open_table(path, len(tokens)), slice(None))
    assert found.tolist() == naive_suffixes(tokens)


@few_examples
@given(token_arrays(max_images=6, max_length=40), st.randoms(use_true_random=False))
def test_no_wrong_entry_passes_the_proof(
    small_parts: None,
    tmp_path_factory: pytest.TempPathFactory,
    rows: NDArray[np.int64],
    rng: object,
) -> None:
    tokens, table = flat(rows), tmp_path_factory.mktemp("table") / "table.0"
    draw = np.random.default_rng(rng.randrange(2**32))  # type: ignore[attr-defined]
    right = 2 * np.array(naive_suffixes(tokens))
    width = pointer_width(len(tokens))

    def write(entries: NDArray[np.int64]) -> None:
        entries.astype("<u8").view(np.uint8).reshape(-1, 8)[:, :width].tofile(table)

    write(right)
    verify_table(tokens, table)
    for change in ("swap", "neighbours", "copy", "odd", "other", "rotate"):
        wrong, (i, j) = right.copy(), draw.choice(len(right), 2, replace=False)
        if change == "swap":
            wrong[[i, j]] = wrong[[j, i]]
        elif change == "neighbours":
            i = min(i, len(right) - 2)
            wrong[[i, i + 1]] = wrong[[i + 1, i]]
        elif change == "copy":
            wrong[i] = wrong[j]
        elif change == "odd":
            wrong[i] ^= 1
        elif change == "other":
            wrong[i] = (wrong[i] + draw.integers(1, 1 << 8 * width)) % (1 << 8 * width)
        else:
            wrong = np.roll(wrong, int(draw.integers(1, len(right))))
        write(wrong)
        with pytest.raises(UserError, match="build the index again"):
            verify_table(tokens, table)


def test_fastgram_is_spared_the_corpora_whose_last_suffix_needs_fewer_bytes() -> None:
    """tg_build_index takes the width of its pointers from the last suffix in order, the third last
    of a corpus."""
    for n in range(1, 9):
        corpus = flat(np.full((1, n), 7))
        assert naive_suffixes(corpus)[-1] == n + 1 == len(corpus) - 3
    wrong = [n for n in range(4, 70_000) if not suits_fastgram(n)]
    assert wrong == [129, 130, 32769, 32770]


@pytest.mark.parametrize("width", [1, 2, 3, 4, 5])
def test_pointers_of_every_width_come_back(width: int) -> None:
    places = np.array([0, 1, (1 << (8 * width - 1)) - 1])
    entries = (2 * places).astype("<u8").view(np.uint8).reshape(-1, 8)[:, :width]
    assert pointers_at(entries, slice(None)).tolist() == places.tolist()
    assert pointer_width(int(places[-1]) + 1) == width
    assert pointer_width(int(places[-1]) + 2) == width + 1
