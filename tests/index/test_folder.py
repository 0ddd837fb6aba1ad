"""The index against brute force, and its refusal to open or to replace anything that is not right."""

import json
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from imagegram.cli import UserError
from imagegram.index.build import build_index
from imagegram.index.builders import build_with_fastgram, find_tg_build_index
from imagegram.index.engine import open_fastgram
from imagegram.index.folder import Index, file_record, verify_index
from imagegram.index.table import pointer_width, pointers_at, verify_table
from imagegram.tokens import SEPARATOR, TERMINATOR, TokenFolder, held_out
from tests.support.corpora import corpora, index_of, naive_suffixes, token_folder

CORPORA = corpora()


@pytest.mark.parametrize("builder", ["divsufsort"])
@pytest.mark.parametrize("name", CORPORA)
def test_the_table_is_the_sorted_suffixes(tmp_path: Path, name: str, builder: str) -> None:
    (shard,) = index_of(tmp_path, CORPORA[name], TERMINATOR, builder=builder).shards
    assert shard.tokens[-3:].tolist() == [SEPARATOR, SEPARATOR, TERMINATOR]
    assert pointers_at(shard.table, slice(None)).tolist() == naive_suffixes(shard.tokens)


@pytest.mark.parametrize("name", CORPORA)
@pytest.mark.parametrize("shard_images", [0, 4])
def test_fastgram_counts_as_brute_force_does(tmp_path: Path, name: str, shard_images: int) -> None:
    tokens = CORPORA[name]
    index = index_of(tmp_path, tokens, TERMINATOR, shard_images)
    engine = open_fastgram(index.path)
    rng = np.random.default_rng(1)
    step = shard_images or len(tokens)
    lines = [
        [t for row in tokens[i : i + step].tolist() for t in (SEPARATOR, *row)] + [SEPARATOR, SEPARATOR, TERMINATOR]
        for i in range(0, len(tokens), step)
    ]
    queries = [[], [SEPARATOR], *([SEPARATOR, int(t)] for t in tokens[:3, 0])]
    for _ in range(60):
        line, length = lines[rng.integers(len(lines))], int(rng.integers(1, 5))
        start = int(rng.integers(0, len(line) - 1 - length))
        queries.append(line[start : start + length])
        if rng.random() < 0.2:
            queries[-1][-1] = int(rng.integers(0, TERMINATOR))
    for query in queries:
        m = len(query)
        ends = [(line, i + m) for line in lines for i in range(len(line) - m + 1 - (not m)) if line[i : i + m] == query]
        assert engine.count(query)["count"] == len(ends)
        follows = Counter(line[end] for line, end in ends)
        answer = engine.primitive_ntd(query, max_support=10_000)
        assert {t: v["cont_cnt"] for t, v in answer["result_by_token_id"].items()} == dict(follows)


def test_images_keep_their_identity_and_held_out_ones_stay_out(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    first, second = rng.integers(0, 512, (300, 6)), rng.integers(0, 512, (200, 6))
    a = token_folder(tmp_path / "a", first, held_out_share=0.3)
    b = token_folder(tmp_path / "b", second, held_out_share=0.3)
    index = build_index([a, b], tmp_path / "input", tmp_path / "index", "divsufsort")
    kept = [np.flatnonzero(~held_out(np.arange(n), 0.3)) for n in (300, 200)]
    assert index.sources == [str(a), str(b)]
    assert index.images[:, 0].tolist() == [0] * len(kept[0]) + [1] * len(kept[1])
    assert index.images[:, 1].tolist() == [*kept[0], *kept[1]]
    assert np.array_equal(index.tokens, np.concatenate([first[kept[0]], second[kept[1]]]))
    assert index.labels.tolist() == [i % 3 for i in (*kept[0], *kept[1])]
    split = build_index([a, b], tmp_path / "input", tmp_path / "split", "divsufsort", shard_images=50)
    assert len(split.shards) == -(-index.num_images // 50)
    assert np.array_equal(split.tokens, index.tokens)


def test_a_finished_index_is_left_alone_and_new_tokens_replace_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(3)
    before = index_of(tmp_path, rng.integers(0, 512, (20, 4)))
    capsys.readouterr()
    build_index([tmp_path / "tokens"], tmp_path / "input", tmp_path / "index", "divsufsort")
    assert "nothing to build" in capsys.readouterr().out
    other = token_folder(tmp_path / "other", rng.integers(0, 512, (30, 4)))
    after = build_index([other], tmp_path / "input", tmp_path / "index", "divsufsort")
    assert (before.num_images, after.num_images) == (20, 30)
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == [".lock-index"]


def test_a_wrong_table_never_becomes_an_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def swapped(tokens: NDArray[np.uint16], table: Path, *, progress: bool) -> None:
        right = np.argsort(np.arange(len(tokens)))  # positions in order of place: no suffix order
        (right * 2).astype("<u8").view(np.uint8).reshape(-1, 8)[:, : pointer_width(len(tokens))].tofile(table)

    index_of(tmp_path, CORPORA["one image"])
    good = (tmp_path / "index" / "index.json").read_bytes()
    monkeypatch.setattr("imagegram.index.builders.build_with_divsufsort", swapped)
    other = token_folder(tmp_path / "other", CORPORA["random, two tokens"])
    with pytest.raises(UserError, match="out of order at entry"):
        build_index([other], tmp_path / "input", tmp_path / "index", "divsufsort")
    assert (tmp_path / "index" / "index.json").read_bytes() == good


def test_the_verifier_finds_every_kind_of_damage(tmp_path: Path) -> None:
    index = index_of(tmp_path, CORPORA["random, many tokens"])
    tokens, table = np.array(index.shards[0].tokens), tmp_path / "index" / "table.0"
    width, whole = pointer_width(len(tokens)), table.read_bytes()
    verify_table(tokens, table)
    entries = np.frombuffer(whole, np.uint8).reshape(-1, width)

    def refused(changed: NDArray[np.uint8], message: str) -> None:
        table.write_bytes(changed.tobytes())
        with pytest.raises(UserError, match=message):
            verify_table(tokens, table)

    for i in (0, 7, len(tokens) - 2):
        changed = entries.copy()
        changed[[i, i + 1]] = changed[[i + 1, i]]
        refused(changed, f"out of order at entry {max(i - 1, 0)}|out of order at entry {i}")
    changed = entries.copy()
    changed[5] = changed[6]
    refused(changed, "not a permutation")
    changed = entries.copy()
    changed[5, 0] |= 1
    refused(changed, "between or behind")
    changed = entries.copy()
    changed[5] = 254, *[255] * (width - 1)
    refused(changed, "between or behind")
    refused(entries[:, :-1].copy(), "bytes")  # a column short: Fastgram would load it
    refused(entries[:-1].copy(), "bytes")


@pytest.mark.parametrize("name", ["tokenized.0", "table.0", "offset.0", "images.npy"])
def test_changed_files_are_refused_and_the_same_command_builds_them_again(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    index_of(tmp_path, CORPORA["random, many tokens"])
    file = tmp_path / "index" / name
    right, data = file.read_bytes(), bytearray(file.read_bytes())
    data[-9] ^= 1
    for damage, problem in ((data, "changed since it was verified"), (data[:-1], "is cut short"), (None, "is missing")):
        file.unlink() if damage is None else file.write_bytes(damage)
        with pytest.raises(UserError, match=problem):
            Index.open(tmp_path / "index")
        capsys.readouterr()
        build_index([tmp_path / "tokens"], tmp_path / "input", tmp_path / "index", "divsufsort")
        assert f"not kept: {file} {problem}" in capsys.readouterr().out
        assert file.read_bytes() == right


def test_verify_reads_what_opening_trusts_and_closes_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index_of(tmp_path, CORPORA["random, many tokens"], shard_images=20)
    capsys.readouterr()
    verify_index(tmp_path / "index")
    assert re.search(r"shards: 2\nverified_seconds: [0-9.e-]+\n", capsys.readouterr().out)
    file, info = tmp_path / "index" / "table.1", tmp_path / "index" / "index.json"

    def hide(hashes: bool) -> None:
        """Make the record agree with the changed file: in its time, or in its hash as well."""
        trusted = json.loads(info.read_text())
        entry = trusted["files"]["table.1"]
        trusted["files"]["table.1"] = file_record(file) if hashes else entry | {"mtime_ns": file.stat().st_mtime_ns}
        info.write_text(json.dumps(trusted))

    for hashes, problem in ((False, "differs from its hash"), (True, "out of order at entry")):
        data = bytearray(file.read_bytes())
        data[4:6], data[8:10] = data[8:10], data[4:6]  # two entries of two bytes change places
        file.write_bytes(data)
        hide(hashes)
        Index.open(tmp_path / "index")
        with pytest.raises(UserError, match=problem):
            verify_index(tmp_path / "index")
        with pytest.raises(UserError, match="no index in"):
            Index.open(tmp_path / "index")
        build_index([tmp_path / "tokens"], tmp_path / "input", tmp_path / "index", "divsufsort", 20)
        verify_index(tmp_path / "index")


def test_bad_input_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no index in .*: run build_index\.sh first"):
        Index.open(tmp_path)
    with pytest.raises(UserError, match=r"no tokens in .*: run tokenize_fast\.py first"):
        build_index([tmp_path / "none"], tmp_path / "input", tmp_path / "index")
    a = token_folder(tmp_path / "a", np.zeros((3, 4), int))
    b = token_folder(tmp_path / "b", np.zeros((3, 5), int))
    with pytest.raises(UserError, match=r"tokens_per_image 5, .*: an index holds one codec"):
        build_index([a, b], tmp_path / "input", tmp_path / "index")
    with pytest.raises(UserError, match="unknown builder 'qsort'"):
        build_index([a], tmp_path / "input", tmp_path / "index", "qsort")
    with pytest.raises(UserError, match="every image is held out"):
        build_index([token_folder(tmp_path / "c", np.zeros((3, 4), int), 512, 1.0)], tmp_path / "i", tmp_path / "index")
    data = bytearray((a / "shard-00000.npy").read_bytes())
    data[-1] ^= 1
    (a / "shard-00000.npy").write_bytes(data)
    with pytest.raises(UserError, match="differs from its hash"):
        build_index([a], tmp_path / "input", tmp_path / "index")


needs_tool = pytest.mark.skipif(
    not find_tg_build_index(),
    reason="tg_build_index is not found: set TG_BUILD_INDEX, the PATH, or build Fastgram in Fastgram/build/",
)


@needs_tool
@pytest.mark.parametrize("name", CORPORA)
def test_tg_build_index_gives_the_same_bytes(tmp_path: Path, name: str) -> None:
    right = index_of(tmp_path, CORPORA[name], TERMINATOR)
    other = build_index([tmp_path / "tokens"], tmp_path / "in", tmp_path / "other", "tg_build_index")
    assert other.info["builder"].startswith("tg_build_index (")
    for file in ("tokenized.0", "offset.0", "table.0"):
        assert (other.path / file).read_bytes() == (right.path / file).read_bytes()


@needs_tool
def test_tg_build_index_gives_the_same_bytes_or_is_refused_where_the_pointers_widen(tmp_path: Path) -> None:
    tool, refused = find_tg_build_index(), 0
    assert tool
    # Around 128 and 32,768 tokens, two more or less decide the width.
    for n, length in ((1, 123), (1, 124), (1, 125), (1, 126), (1, 127), (56, 583), (5, 6552), (5, 6553), (6, 5460)):
        tokens = np.random.default_rng(n).integers(0, 3, (n, length))
        right = index_of(tmp_path / f"{n}-{length}", tokens)
        table, source = tmp_path / "table", tmp_path / f"{n}-{length}" / "input"
        if pointer_width(len(right.shards[0].tokens)) != pointer_width(len(right.shards[0].tokens) - 2):
            refused += 1
            with pytest.raises(UserError, match="use BUILDER=divsufsort"):
                build_with_fastgram(tool, source, table)
            auto = build_index([tmp_path / f"{n}-{length}" / "tokens"], source, tmp_path / f"auto-{n}-{length}")
            assert auto.info["builder"].startswith("pydivsufsort ")
        else:
            build_with_fastgram(tool, source, table)
            assert table.read_bytes() == (right.path / "table.0").read_bytes()
    assert refused >= 2


def test_a_named_tool_must_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TG_BUILD_INDEX", "/no/such/tool")
    with pytest.raises(UserError, match="is not a program"):
        find_tg_build_index()


def test_the_token_folders_are_found_by_path_and_known_by_their_contents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Built with relative paths, used from another directory, moved as a whole; other tokens at the path: refused."""
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 9, (30, 4))
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    token_folder(Path("tokens"), rows)
    build_index([Path("tokens")], Path("input"), Path("index"), "divsufsort")
    monkeypatch.chdir(tmp_path)
    assert np.array_equal(Index.open(Path("here/index")).token_folders()[0].load().tokens, rows)

    here.rename(tmp_path / "there")
    moved = Index.open(Path("there/index"))
    assert moved.token_folders()[0].path.samefile("there/tokens")

    shutil.rmtree("there/tokens")
    with pytest.raises(UserError, match="are not in"):
        moved.token_folders()
    token_folder(Path("there/tokens"), rng.integers(0, 9, (30, 4)))
    with pytest.raises(UserError, match="does not hold the tokens that"):
        moved.token_folders()


def test_tokens_made_again_with_the_same_bytes_are_the_same(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).integers(0, 9, (30, 4))
    index = index_of(tmp_path, rows)
    shutil.rmtree(tmp_path / "tokens")
    folder = TokenFolder.open(token_folder(tmp_path / "tokens", rows))
    marker = folder.path / "shard-00000.json"
    marker.write_text(marker.read_text().replace('"seconds": 1.0', '"seconds": 2.0'))
    again = build_index([folder.path], tmp_path / "input", tmp_path / "index", "divsufsort")
    assert again.info == index.info
