"""Builders and shards: the same bytes and answers, whoever builds them and however often killed."""

import json
import random
import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from imagegram.cli import UserError, run_script
from imagegram.files import sha256
from imagegram.index import build as indexing
from imagegram.index import shards
from imagegram.index.__main__ import Build, Verify, main
from imagegram.index.build import build_index, build_share
from imagegram.index.engine import open_fastgram
from imagegram.index.folder import Index
from imagegram.index.table import pointers_at
from imagegram.machine import Processes
from imagegram.tokens import SEPARATOR, TERMINATOR, TokenFolder
from tests.support.corpora import index_of, indexed, naive_suffixes, token_arrays, token_folder
from tests.support.kills import killed


def files_of(folder: Path) -> dict[str, str]:
    """Hashes of the data of an index."""
    return {f.name: sha256(f) for f in folder.iterdir() if f.name != "index.json"}


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(token_arrays(), st.integers(1, 5), st.randoms(use_true_random=False))
def test_any_corpus_in_any_number_of_shards_counts_as_brute_force_does(
    tmp_path_factory: pytest.TempPathFactory,
    tokens: NDArray[np.int64],
    shards: int,
    rng: random.Random,
) -> None:
    folder = tmp_path_factory.mktemp("any")
    index = index_of(folder, tokens, TERMINATOR, shard_images=-(-len(tokens) // shards))
    whole = open_fastgram(indexed(folder, index="whole").path)
    lines = []
    for shard in index.shards:
        assert pointers_at(shard.table, slice(None)).tolist() == naive_suffixes(shard.tokens)
        lines.append(shard.tokens.tolist())
    assert np.array_equal(index.tokens, tokens)
    engine = open_fastgram(index.path)
    for _ in range(10):
        line = rng.choice(lines)
        length = rng.randint(1, min(6, len(line) - 3))
        start = rng.randrange(len(line) - 2 - length)
        query = line[start : start + length]
        follows = Counter(
            line[i + length]
            for line in lines
            for i in range(len(line) - length)
            if line[i : i + length] == query
        )
        assert engine.count(query)["count"] == follows.total()
        answer = engine.primitive_ntd(query, max_support=100_000)["result_by_token_id"]
        assert {token: found["cont_cnt"] for token, found in answer.items()} == follows
        # within an image it does not matter how many shards there are
        if SEPARATOR not in query[1:]:
            endings = 2 * (len(lines) - 1) if query == [SEPARATOR] else 0
            assert whole.count(query)["count"] == follows.total() - endings


@pytest.mark.parametrize("damage", ["flipped bit", "cut short", "no table", "no marker"])
def test_a_finished_shard_of_an_interrupted_build_is_kept_and_a_damaged_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    tokens = np.random.default_rng(0).integers(0, 9, (40, 6))
    right = files_of(index_of(tmp_path, tokens, shard_images=10).path)
    verify, calls = shards.verify_table, []

    def build(name: str = "tokens") -> Index:
        return indexed(tmp_path, name, index="again", shard_images=10)

    def fourth_time_unlucky(*args: object, progress: bool) -> None:
        calls.append(args)
        if len(calls) == 4:
            raise KeyboardInterrupt
        verify(*args, progress=progress)  # type: ignore[arg-type]

    monkeypatch.setattr(shards, "verify_table", fourth_time_unlucky)
    with pytest.raises(KeyboardInterrupt):
        build()
    (building,) = tmp_path.glob(".building-again-*")
    table = building / "table.1"
    data = table.read_bytes()
    if damage == "flipped bit":
        table.write_bytes(bytes([data[0] ^ 2]) + data[1:])
    elif damage == "cut short":
        table.write_bytes(data[:-1])
    else:
        (table if damage == "no table" else building / "shard-1.json").unlink()
    (building / "table.3-parts").mkdir()  # of another builder, killed
    (building / "table.3-parts" / "table.0").touch()
    capsys.readouterr()
    again = build()
    out = capsys.readouterr().out
    assert "2 of 4 shards are finished" in out
    assert [line[:8] for line in out.splitlines() if "sorting" in line] == ["shard 1:", "shard 3:"]
    assert files_of(again.path) == right
    again.path.rename(building)  # a run killed just before its last step
    build()
    assert "sorting" not in capsys.readouterr().out
    assert files_of(again.path) == right
    again.path.rename(building)  # and another request: nothing of it is taken over
    token_folder(tmp_path / "other", tokens[:20])
    assert build("other").num_images == 20
    assert not building.exists()


def test_a_build_killed_at_any_change_of_a_folder_is_finished_by_the_same_call(
    tmp_path: Path,
) -> None:
    tokens = np.random.default_rng(0).integers(0, 3, (12, 5))
    right = files_of(index_of(tmp_path, tokens, shard_images=6).path)
    other = index_of(tmp_path / "other", tokens[:3]).path  # what the build replaces
    out = tmp_path / "out"

    def build() -> Index:
        return indexed(tmp_path, index="out/index", shard_images=6)

    for event in range(1, 1000):
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(other, out / "index")
        if not killed(build, at_event=event):
            break
        assert files_of(build().path) == right
        assert {f.name for f in out.iterdir()} == {"index", ".lock-index"}
        assert not list((tmp_path / "input").rglob(".tmp-*"))
        Index.open(out / "index")
    assert 40 < event < 999


def test_a_shard_too_large_is_refused_with_the_size_to_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = token_folder(tmp_path / "tokens", np.zeros((100, 9), int))
    monkeypatch.setattr(indexing, "MAX_TOKENS", 603)
    said = "100 images are 1000 tokens, a shard holds at most 603: take --shard-images 60"
    with pytest.raises(UserError, match=said):
        indexed(tmp_path)
    assert len(indexed(tmp_path, shard_images=60).shards) == 2
    monkeypatch.setattr(indexing, "memory_available", lambda: 10_000)
    two = Processes(0, 2, on_this_machine=2)
    said = r"building 2 x 60 images needs .*: take --shard-images 40, fewer processes$"
    with pytest.raises(UserError, match=said):
        build_share([folder], tmp_path / "in", tmp_path / "other", shard_images=60, processes=two)
    usage = SimpleNamespace(free=1000)
    monkeypatch.setattr(indexing.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match=r"needs 0\.1 MB, 0\.0 MB are free: free some space first"):
        indexed(tmp_path, index="other", shard_images=60)
    usage.free = 9000
    indexed(tmp_path, index="other", shard_images=60)


def test_the_command_takes_options_and_arrays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(words: str, *more: str, fails: bool = False) -> str:
        assert run_script(main, Build | Verify, None, [*words.split(), *more]) == fails
        return "".join(capsys.readouterr())

    monkeypatch.chdir(tmp_path)
    tokens = np.random.default_rng(0).integers(0, 512, (40, 3))
    for name in ("codes", "ids"):
        np.save(f"{name}.npy", tokens)
    run("build --tokens codes.npy --levels 8 8 8 --index of-codes --index-input input")
    run("build --tokens ids.npy --vocab-size 4096 --out of-ids --index-input input")
    for name, levels, vocab_size in (("codes", (8, 8, 8), 512), ("ids", (), 4096)):
        index = Index.open(Path(f"of-{name}"))
        assert (index.levels, index.vocab_size) == (levels, vocab_size)
        read = TokenFolder.open(Path(name)).load().tokens
        assert isinstance(read, np.memmap)  # of one shard they stay on the disk
        assert read.tolist() == tokens.tolist()
    assert "verified_seconds: " in run("verify of-ids")

    options = "--index of/several --index-input in --shard-images 15 --builder divsufsort"
    for sources in (["one", "two"], ["a b"]):
        for seed, name in enumerate(sources):
            token_folder(Path(name), np.random.default_rng(seed).integers(0, 9, (20, 4)))
        run(f"build {options} --tokens", *sources)
        index = Index.open(Path("of/several"))
        assert index.sources == [str(tmp_path / name) for name in sources]
        assert len(index.shards) == len(sources) + 1
        for number, shard in enumerate(index.shards):  # each from an input of its own
            written = np.fromfile(f"in/shard-{number}/tokenized.0", "<u2")
            assert np.array_equal(written, shard.tokens)
    assert "no token folders" in run("build --tokens", fails=True)
    assert "--shard-images must be at least 0" in run("build --shard-images -1", fails=True)


def test_a_variable_that_was_an_option_once_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SHARD_IMAGES", "10")
    with pytest.raises(UserError, match="no tokens in"):
        main(Build(tokens=(tmp_path,)))
    assert "SHARD_IMAGES of the environment is not read: --shard-images" in capsys.readouterr().out


def test_a_missing_builder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = token_folder(tmp_path / "tokens", np.zeros((3, 4), int))
    places = [folder], tmp_path / "in", tmp_path / "index"
    with pytest.raises(
        UserError, match="unknown builder 'infini-gram': auto, tg_build_index, divsufsort"
    ):
        build_index(*places, builder="infini-gram")
    monkeypatch.setattr("imagegram.index.builders.find_tg_build_index", lambda: None)
    with pytest.raises(UserError, match="tg_build_index is not found"):
        build_index(*places, builder="tg_build_index")
    monkeypatch.undo()
    monkeypatch.setenv("TG_BUILD_INDEX", "/no/such/tool")
    with pytest.raises(UserError, match="is not a program"):
        build_index(*places)


def test_only_an_index_is_ever_replaced(tmp_path: Path) -> None:
    """A folder of somebody's results, tokens or index input under the name of the index: refused,
    nothing touched."""
    rows = np.random.default_rng(0).integers(0, 9, (20, 4))
    tokens = token_folder(tmp_path / "data" / "tokens", rows)
    results = tmp_path / "results"
    results.mkdir()
    (results / "paper.txt").write_text("a week of work")
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    index_input = tmp_path / "input"
    for out, said in (
        (results, "not an index"),
        (results / "paper.txt", "is a file"),
        (tokens, r"not an index|in each other"),
        (tokens / "index", r"not an index|in each other"),
        (tmp_path / "data", r"not an index|in each other"),
        (index_input, "in each other"),
    ):
        with pytest.raises(UserError, match=said):
            build_index([tokens], index_input, out)
    with pytest.raises(UserError, match=r"not the input of an index, e\.g\. 'paper.txt'"):
        build_index([tokens], results, tmp_path / "index")
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before
    (results / "index.json").write_text('{"home": "a page of its own"}')
    with pytest.raises(UserError, match=r"not an index, e\.g\. 'index.json'"):
        build_index([tokens], index_input, results)
    index = indexed(tmp_path, "data/tokens")
    (index.path / "notes.txt").write_text("kept beside the index")
    with pytest.raises(UserError, match=r"not an index, e\.g\. 'notes.txt'"):
        indexed(tmp_path, "data/tokens")


def test_an_empty_folder_an_old_index_and_a_link_are_replaced(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    disk, link = tmp_path / "disk", tmp_path / "index"
    disk.mkdir()
    link.symlink_to(disk)
    hashes = set()
    for name in ("one", "two"):
        token_folder(tmp_path / name, rng.integers(0, 9, (20, 4)))
        hashes.add(indexed(tmp_path, name).info["hash"])
    assert len(hashes) == 2
    assert link.is_symlink()
    assert (disk / "index.json").exists()
    assert not [*tmp_path.glob(".old*"), *tmp_path.glob(".building*")]


def test_two_columns_of_pictures_of_one_table_are_two_data_sets(tmp_path: Path) -> None:
    for side, seed in (("left", 0), ("right", 1), ("again", 0)):
        tokens = np.random.default_rng(seed).integers(0, 500, (30, 4))
        path = token_folder(tmp_path / side, tokens, vocab_size=500)
        for file in (path / "manifest.json", path / "shard-00000.json"):
            content = json.loads(file.read_text())
            content.get("manifest", content).update(
                fingerprint="of the table", image_column=side.replace("again", "left")
            )
            file.write_text(json.dumps(content))
    assert indexed(tmp_path, "left", "right").num_images == 60
    with pytest.raises(UserError, match=r"left and .*again hold the same images"):
        indexed(tmp_path, "left", "right", "again", index="other")


def test_an_index_is_built_anew_whenever_anything_it_depends_on_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tokens = np.random.default_rng(0).integers(0, 500, (30, 4))
    token_folder(tmp_path / "one", tokens, vocab_size=500)
    two = token_folder(tmp_path / "two", tokens[::2], vocab_size=500)

    def is_built(*folders: str, shard_images: int = 0) -> bool:
        indexed(tmp_path, *folders, shard_images=shard_images)
        return "is finished, nothing to build" not in capsys.readouterr().out

    assert is_built("one")
    assert not is_built("one")
    assert is_built("one", shard_images=20)
    assert is_built("two")
    assert is_built("one", "two")
    assert is_built("two", "one")
    labels = np.load(two / "labels-00000.npy")
    TokenFolder.open(two).write(0, tokens[::2], labels[::-1], {}, 1.0)
    assert is_built("two", "one")
    TokenFolder.open(two).write(0, tokens[2::2], labels[1:], {0: "torn"}, 1.0)
    assert is_built("two", "one")
    assert not is_built("two", "one")
    monkeypatch.setattr(indexing, "FORMAT", 99)
    monkeypatch.setattr("imagegram.index.folder.FORMAT", 99)
    assert is_built("two", "one")
