"""The same command gives the same bytes, whatever the threads, batches, shards and processes, and
where it stopped."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from threadpoolctl import threadpool_limits

import generate_images
import tokenize_fast
import tokenize_imagenet_large
from imagegram.cli import run_script
from imagegram.index import __main__ as build_index

SAMPLERS = ("kernel", "ntd")
DURATIONS = {"sequences_per_second", "decoded_images_per_second"}


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Classifiers and kernels hardly trained; with 20 steps the order of sums would show in the
    figures."""
    monkeypatch.setattr("imagegram.metrics.coherence.STEPS", 20)
    monkeypatch.setattr("imagegram.samplers.kernel.fit.STEPS", 3)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def night(
    folder: Path, *, threads: int, batch_size: int, shard_images: int
) -> dict[str, dict[str, Any]]:
    """Pictures of each sampler from the first image on, in `folder`; their reports without
    durations."""
    torch.set_num_threads(threads)
    options = [
        f"--out={folder}/t",
        "--images=500",
        f"--batch-size={batch_size}",
        "--shard-size=100",
    ]
    commands = [
        (tokenize_fast, options),
        (
            build_index,
            ["build", f"--tokens={folder}/t", f"--index={folder}/i", f"--index-input={folder}/in"],
        ),
        *(
            (
                generate_images,
                [
                    name,
                    f"--index={folder}/i",
                    f"--out={folder}/{name}",
                    "--sequences=60",
                    "--decoded=5",
                ],
            )
            for name in SAMPLERS
        ),
    ]
    commands[1][1].append(f"--shard-images={shard_images}")
    with threadpool_limits(threads):
        for script, options in commands:
            config = script.Build | script.Verify if script is build_index else script.Config
            assert run_script(script.main, config, script.__doc__, options) == 0
    reports = {name: json.loads((folder / name / "report.json").read_text()) for name in SAMPLERS}
    return {
        n: {key: value for key, value in each.items() if key not in DURATIONS}
        for n, each in reports.items()
    }


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
    share = [
        "--dataset=digits",
        "--codec=tiny",
        "--images=500",
        "--shard-size=100",
        f"--out={folder}/t",
    ]
    assert run_script(tokenize_imagenet_large.main, tokenize_imagenet_large.Config, "", share) == 0
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name)
    assert sorted(file.name for file in (folder / "t").glob("shard-*.json")) == [
        "shard-00001.json",
        "shard-00003.json",
    ]
    (folder / "t" / "shard-00003.json").unlink()
    (folder / "t" / "shard-00003.npy").write_bytes(b"cut sho")

    many = night(folder, threads=2, batch_size=17, shard_images=170)
    assert len(list((folder / "i").glob("table.*"))) == 3
    # How an index is split is part of its hash, under which what is made from it is kept.
    for sampler in SAMPLERS:
        assert one[sampler]["request"].pop("index") != many[sampler]["request"].pop("index")
        for name in ("tokens.npy", *(f"image_{i:04d}.png" for i in range(5))):
            files = [
                (place / sampler / name).read_bytes() for place in (folder, tmp_path / "before")
            ]
            assert files[0] == files[1]
    assert one == many
