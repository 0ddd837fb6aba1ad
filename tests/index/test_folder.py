"""The index against brute force, and its refusal to open or to replace anything that is not
right."""

import json
import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from imagegram.cli import UserError
from imagegram.data.dataset import held_out
from imagegram.index.build import build_index
from imagegram.index.builders import build_with_fastgram, find_tg_build_index
from imagegram.index.folder import Index, file_record, verify_index
from imagegram.index.table import pointer_width, verify_table
from imagegram.tokens import TokenFolder
from tests.support.corpora import corpora, index_of, indexed, token_folder

CORPORA = corpora()


def test_images_keep_their_identity_and_held_out_ones_stay_out(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    first, second = rng.integers(0, 512, (300, 6)), rng.integers(0, 512, (200, 6))
    a = token_folder(tmp_path / "a", first, held_out_share=0.3)
    b = token_folder(tmp_path / "b", second, held_out_share=0.3)
    index = indexed(tmp_path, "a", "b")
    kept = [np.flatnonzero(~held_out(np.arange(n), 0.3)) for n in (300, 200)]
    assert index.sources == [str(a), str(b)]
    assert index.images[:, 0].tolist() == [0] * len(kept[0]) + [1] * len(kept[1])
    assert index.images[:, 1].tolist() == [*kept[0], *kept[1]]
    assert np.array_equal(index.tokens, np.concatenate([first[kept[0]], second[kept[1]]]))
    assert index.labels.tolist() == [i % 3 for i in (*kept[0], *kept[1])]
    split = indexed(tmp_path, "a", "b", index="split", shard_images=50)
    assert len(split.shards) == -(-index.num_images // 50)
    assert np.array_equal(split.tokens, index.tokens)
    line = np.concatenate([shard.tokens[:-3] for shard in split.shards])
    assert np.array_equal(line, split.corpus[:-3])


def test_a_wrong_table_never_becomes_an_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def swapped(tokens: NDArray[np.uint16], table: Path, *, progress: bool) -> None:
        entries = 2 * np.arange(len(tokens), dtype="<u8")  # in order of place: no suffix order
        width = pointer_width(len(tokens))
        entries.view(np.uint8).reshape(-1, 8)[:, :width].tofile(table)

    index_of(tmp_path, CORPORA["one image"])
    good = (tmp_path / "index" / "index.json").read_bytes()
    monkeypatch.setattr("imagegram.index.builders.build_with_divsufsort", swapped)
    token_folder(tmp_path / "other", CORPORA["random, two tokens"])
    with pytest.raises(UserError, match="out of order at entry"):
        indexed(tmp_path, "other")
    assert (tmp_path / "index" / "index.json").read_bytes() == good


def test_a_table_with_a_column_or_a_row_less_is_refused(tmp_path: Path) -> None:
    """Fastgram would load it. Wrong entries: test_table.py."""
    shard = index_of(tmp_path, CORPORA["random, many tokens"]).shards[0]
    table = tmp_path / "index" / "table.0"
    whole = np.array(shard.table)
    for wrong in (whole[:, :-1], whole[:-1]):
        table.write_bytes(wrong.tobytes())
        said = f"has {wrong.size} bytes, {len(whole)} tokens need {whole.size}"
        with pytest.raises(UserError, match=said):
            verify_table(shard.tokens, table)


@pytest.mark.parametrize("name", ["tokenized.0", "table.0", "offset.0", "images.npy"])
def test_changed_files_are_refused_and_the_same_command_builds_them_again(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    index_of(tmp_path, CORPORA["random, many tokens"])
    file = tmp_path / "index" / name
    os.utime(file, (0, 0))  # as a copy has other times
    Index.open(tmp_path / "index")
    right, data = file.read_bytes(), bytearray(file.read_bytes())
    data[-9] ^= 1
    for damage, problem in (
        (data, "changed since it was verified"),
        (data[:-1], "is cut short"),
        (None, "is missing"),
    ):
        file.unlink() if damage is None else file.write_bytes(damage)
        with pytest.raises(UserError, match=problem):
            Index.open(tmp_path / "index")
        capsys.readouterr()
        indexed(tmp_path)
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

    def hide(file: Path, *, hashes: bool) -> None:
        """Make the record agree with the changed file: in its time, or in its hash as well."""
        trusted = json.loads(info.read_text())
        record = file_record(file)
        known = record if hashes else {"mtime_ns": record["mtime_ns"]}
        trusted["files"][file.name] |= known
        info.write_text(json.dumps(trusted))

    for hashes, problem in ((False, "differs from its hash"), (True, "out of order at entry")):
        data = bytearray(file.read_bytes())
        data[4:6], data[8:10] = data[8:10], data[4:6]  # two entries of two bytes change places
        file.write_bytes(data)
        hide(file, hashes=hashes)
        Index.open(tmp_path / "index")
        with pytest.raises(UserError, match=problem):
            verify_index(tmp_path / "index")
        with pytest.raises(UserError, match="no index in"):
            Index.open(tmp_path / "index")
        verify_index(indexed(tmp_path, shard_images=20).path)
    (offsets := tmp_path / "index" / "offset.0").write_bytes(offsets.read_bytes()[::-1])
    hide(offsets, hashes=True)
    with pytest.raises(UserError, match=r"offset\.0 does not list the separators"):
        verify_index(tmp_path / "index")


def test_bad_input_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no index in .*: run build_index\.sh first"):
        Index.open(tmp_path)
    with pytest.raises(UserError, match=r"no tokens in .*: run tokenize_fast\.py first"):
        indexed(tmp_path, "none")
    (tmp_path / "index.json").write_text('{"format": 1}')
    with pytest.raises(UserError, match=r"has format 1, not 2: run build_index\.sh again"):
        Index.open(tmp_path)
    a = token_folder(tmp_path / "a", np.zeros((3, 4), int))
    token_folder(tmp_path / "b", np.zeros((3, 5), int))
    token_folder(tmp_path / "c", np.zeros((3, 4), int), 512, 1.0)
    said = r"tokens_per_image 5, .*: an index holds tokens made in one way"
    with pytest.raises(UserError, match=said):
        indexed(tmp_path, "a", "b")
    with pytest.raises(UserError, match="every image is held out"):
        indexed(tmp_path, "c")
    data = bytearray((a / "shard-00000.npy").read_bytes())
    data[-1] ^= 1
    (a / "shard-00000.npy").write_bytes(data)
    with pytest.raises(UserError, match="differs from its hash"):
        indexed(tmp_path, "a")


@pytest.mark.skipif(
    not find_tg_build_index(),
    reason="no tg_build_index: set TG_BUILD_INDEX, the PATH, or build Fastgram in Fastgram/build/",
)
def test_tg_build_index_gives_the_same_bytes_or_is_refused_where_the_pointers_widen(
    tmp_path: Path,
) -> None:
    tool, refused = find_tg_build_index(), 0
    assert tool
    # Around 128 and 32,768 tokens, two more or less decide the width.
    around = [(1, length) for length in range(123, 128)]
    for n, length in (*around, (56, 583), (5, 6552), (5, 6553), (6, 5460)):
        folder = tmp_path / f"{n}-{length}"
        right = index_of(folder, np.random.default_rng(n).integers(0, 3, (n, length)))
        table, source = tmp_path / "table", folder / "input"
        size = len(right.shards[0].tokens)
        if pointer_width(size) != pointer_width(size - 2):
            refused += 1
            with pytest.raises(UserError, match="use --builder divsufsort"):
                build_with_fastgram(tool, source, table)
            auto = build_index([folder / "tokens"], source, folder / "auto")
            assert auto.info["builder"].startswith("pydivsufsort ")
        else:
            build_with_fastgram(tool, source, table)
            assert table.read_bytes() == (right.path / "table.0").read_bytes()
    assert refused >= 2


TOOL = """
import pathlib, sys
source, out, *rest = sys.argv[1:]
assert rest == ["2", "4", "table_only"]
data = pathlib.Path(source, "tokenized.0").read_bytes()
pathlib.Path(out).mkdir()
order = sorted(range(0, len(data), 2), key=lambda i: data[i:])
width = 1 if len(data) <= 256 else 2
pathlib.Path(out, "table.0").write_bytes(b"".join(i.to_bytes(width, "little") for i in order))
"""


def test_a_tool_is_asked_where_it_is_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow one in the place of tg_build_index."""
    tool = tmp_path / "tool"
    tool.write_text(f"#!{sys.executable} -SE{TOOL}")
    tool.chmod(0o755)
    monkeypatch.setenv("TG_BUILD_INDEX", str(tool))
    for length, suits in ((124, True), (125, False)):  # 128 tokens and 129
        right = index_of(tmp_path / str(length), np.arange(length)[None])
        places = [tmp_path / str(length) / "tokens"], tmp_path / "in", tmp_path / f"index-{length}"
        index = build_index(*places)
        builder = f"tg_build_index ({tool})" if suits else "pydivsufsort "
        assert index.info["builder"].startswith(builder)
        assert (index.path / "table.0").read_bytes() == (right.path / "table.0").read_bytes()
    with pytest.raises(UserError, match="cannot index exactly 129 tokens correctly"):
        build_index(*places[:2], tmp_path / "other", builder="tg_build_index")
    source = tmp_path / "124" / "input"
    (tmp_path / "table-tg_build_index").mkdir()  # of a killed run
    build_with_fastgram(tool, source, tmp_path / "table")
    assert not (tmp_path / "table-tg_build_index").exists()
    tool.write_text(f"#!{sys.executable}\nraise SystemExit('out of memory')")
    with pytest.raises(UserError, match=r"tool .* 2 4 table_only failed \(1\): out of memory"):
        build_with_fastgram(tool, source, tmp_path / "table")


def test_without_links_files_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    linked = index_of(tmp_path / "linked", CORPORA["random, two tokens"])
    assert (linked.path / "tokenized.0").stat().st_nlink == 2

    def fails(*_: object) -> None:
        raise OSError

    monkeypatch.setattr(Path, "hardlink_to", fails)
    copied = index_of(tmp_path / "copied", CORPORA["random, two tokens"])
    for name in ("tokenized.0", "offset.0"):
        assert (copied.path / name).read_bytes() == (linked.path / name).read_bytes()


def test_the_token_folders_are_found_by_path_and_known_by_their_contents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Built with relative paths, used from another directory, moved as a whole; other tokens at the
    path: refused."""
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 9, (30, 4))
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    token_folder(Path("tokens"), rows)
    indexed(Path())
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
    assert indexed(tmp_path).info == index.info
