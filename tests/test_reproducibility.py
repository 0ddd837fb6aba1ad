"""The same command gives the same bytes, whatever threads, batches, shards, processes and stops."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from threadpoolctl import threadpool_limits

import tokenize_imagenet_large
from imagegram.cli import run_script
from imagegram.index import __main__ as index
from tests.support.scripts import run, run_generate, run_tokenize

SAMPLERS = ("kernel", "ntd")


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Classifiers and kernels hardly trained: 20 steps show the order of sums in the figures."""
    monkeypatch.setattr("imagegram.metrics.coherence.STEPS", 20)
    monkeypatch.setattr("imagegram.samplers.kernel.fit.STEPS", 3)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def night(
    folder: Path, *, threads: int, batch_size: int, shard_images: int
) -> dict[str, dict[str, Any]]:
    """Pictures of each sampler in `folder`, from the first image on; their reports."""
    torch.set_num_threads(threads)
    sizes = f"--images=500 --batch-size={batch_size} --shard-size=100"
    places = f"--tokens={folder}/t --index={folder}/i --index-input={folder}/in"
    with threadpool_limits(threads):
        run_tokenize(f"--out={folder}/t", sizes)
        arguments = ["build", *places.split(), f"--shard-images={shard_images}"]
        assert run_script(index.main, index.Build | index.Verify, None, arguments) == 0
        reports = {}
        for name in SAMPLERS:
            asked = f"{name} --index={folder}/i --out={folder}/{name} --sequences=60 --decoded=5"
            run_generate(asked)
            reports[name] = json.loads((folder / name / "report.json").read_text())
    for report in reports.values():
        for duration in ("sequences_per_second", "decoded_images_per_second"):
            del report[duration]
    return reports


@pytest.mark.usefixtures("hasty")
def test_a_report_depends_on_no_number_of_threads_batches_shards_or_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "here"  # the same path, which stands in the report
    one = night(folder, threads=1, batch_size=256, shard_images=0)
    folder.rename(tmp_path / "before")

    # The second time another process has tokenized its share, and was killed in its last shard.
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    share = "--dataset=digits --codec=tiny --images=500 --shard-size=100"
    run(tokenize_imagenet_large, share, f"--out={folder}/t")
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name)
    shards = sorted(file.name for file in (folder / "t").glob("shard-*.json"))
    assert shards == ["shard-00001.json", "shard-00003.json"]
    (folder / "t" / "shard-00003.json").unlink()
    (folder / "t" / "shard-00003.npy").write_bytes(b"cut sho")

    many = night(folder, threads=2, batch_size=17, shard_images=170)
    assert len(list((folder / "i").glob("table.*"))) == 3
    # How an index is split is part of its hash, under which what is made from it is kept.
    for sampler in SAMPLERS:
        assert one[sampler]["request"].pop("index") != many[sampler]["request"].pop("index")
        for name in ("tokens.npy", *(f"image_{i:04d}.png" for i in range(5))):
            before = tmp_path / "before" / sampler / name
            assert (folder / sampler / name).read_bytes() == before.read_bytes()
    assert one == many
