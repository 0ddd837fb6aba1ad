"""Pictures of a run: as many as asked for, or as there are."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imagegram.cli import UserError
from imagegram.generating import Request, Run
from imagegram.index.folder import Index
from imagegram.machine import Processes
from imagegram.metrics.held_out import HeldOut
from imagegram.parts import Part, joined, part_file
from imagegram.report import __main__ as report
from imagegram.samplers import Aligned
from imagegram.samplers.draw import Draw
from tests.support.corpora import index_of
from tests.support.fake_codec import FakeCodec
from tests.support.scripts import build, run_generate, run_tokenize


def real_images(count: int) -> HeldOut:
    """Held-out images of four tokens below 500 and three classes."""
    tokens = np.random.default_rng(1).integers(0, 500, (count, 4)).astype(np.uint16)
    return HeldOut(tokens, np.arange(count) % 3, np.zeros((count, 2), np.int64))


def random_index(folder: Path, seed: int = 0) -> Index:
    tokens = np.random.default_rng(seed).integers(0, 500, (60, 4))
    return index_of(folder, tokens, vocab_size=500)


def test_parts_come_back_and_are_joined_with_what_is_decoded_first(tmp_path: Path) -> None:
    """Rows are numbered by hand: of three and two sequences two and one are decoded."""
    parts = []
    for seed, rows, decoded in ((4, [0, 1, 3], 2), (5, [2, 4], 1)):
        numbers = np.array(rows)
        sources = np.broadcast_to(numbers[:, None, None], (len(rows), 1, 2))
        noises, images = numbers[:decoded], np.full((decoded, 3, 1, 1), rows[0], np.uint8)
        part = Part(numbers[:, None].astype(np.uint16), sources, numbers, noises, images)
        part.save(part_file(tmp_path, seed), {"seed": seed})
        found = Part.load(part_file(tmp_path, seed), {"seed": seed})
        assert found is not None
        assert all(np.array_equal(value, vars(found)[name]) for name, value in vars(part).items())
        assert Part.load(part_file(tmp_path, seed), {"seed": 6}) is None
        parts.append(found)
    whole = joined(parts)
    for values in (whole.tokens[:, 0], whole.sources[:, 0, 1], whole.given):
        assert values.tolist() == [0, 1, 2, 3, 4]
    assert (whole.noises.tolist(), whole.images[:, 0, 0, 0].tolist()) == ([0, 1, 2], [0, 0, 2])
    unprompted = [replace(part, given=part.given[:0]) for part in parts]
    assert joined(unprompted).given.size == 0
    assert {file.name for file in tmp_path.iterdir()} == {"seed-4.npz", "seed-5.npz"}
    part_file(tmp_path, 4).write_bytes(part_file(tmp_path, 4).read_bytes()[:-9])
    assert Part.load(part_file(tmp_path, 4), {"seed": 4}) is None
    assert Part.load(part_file(tmp_path, 6), {"seed": 6}) is None


def test_fewer_sequences_than_pictures_asked_for_are_all_shown(tmp_path: Path) -> None:
    index = index_of(tmp_path, np.zeros((5, 4), int), vocab_size=500)
    request = Request(Draw(Aligned()), sequences=9, decoded=9, seed=2)
    run = Run(index, FakeCodec(), real_images(0), request, tmp_path)
    images, noises = run.decode(index.tokens, 2)
    assert len(images) == 5
    assert noises.tolist() == [2_000_000 + i for i in range(5)]


def test_without_held_out_images_a_sampler_is_fitted_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imagegram.samplers.kernel.fit.STEPS", 2)
    run_tokenize(f"--images 30 --held-out-share 0 --out {tmp_path}/tokens")
    build(tmp_path, tmp_path / "tokens")
    out = f"--out {tmp_path}/generated/kernel-seed0"
    printed = run_generate(f"--index {tmp_path}/index --sequences 8 --decoded 0", out)
    assert printed.count("no held-out images:") == 1
    assert "closer_than_held_out: -\n" in printed
    assert "training_bits: -" not in printed

    # Their page, without a night; held-out images that one decoded are no sampler's.
    of_a_night = tmp_path / "generated/held-out-seed0/report.json"
    of_a_night.parent.mkdir()
    of_a_night.write_text('{"request": {"sampler": "held-out"}}')
    report.main(report.Config([tmp_path]))
    assert "8 sequences a sampler" in (tmp_path / "report.html").read_text()
    with pytest.raises(UserError, match="holds no night"):
        report.main(report.Config([tmp_path / "index"]))


def test_a_finished_folder_is_made_anew_whenever_anything_its_figures_depend_on_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = real_images(9)
    request = Request(Draw(Aligned()), sequences=5, decoded=0, seed=0)
    usual: dict[str, Any] = {"index": random_index(tmp_path / "a"), "codec": FakeCodec()}
    usual |= {"held_out": real, "request": request, "path": tmp_path / "out"}

    def is_made(**changes: Any) -> bool:
        return Run(**usual | changes).generate().new

    requests: list[dict[str, Any]] = [
        {"draw": Draw(Aligned(context=1))},
        {"draw": Draw(Aligned(), length=3)},
        {"draw": Draw(Aligned(), prompt=1)},
        {"sequences": 6},
        {"prefixes": 1},
        {"noises": 1},
        {"seed": 1},
        {"seeds": 2},
        {"timesteps": 3},
        {"guidance_scale": 1.5},
    ]
    assert is_made()
    assert not is_made()
    changes: list[dict[str, Any]] = [
        {"index": random_index(tmp_path / "b", seed=2)},
        {"codec": FakeCodec(name="another")},
        {"codec": FakeCodec(revision="2")},
        {"codec": FakeCodec(timesteps=7)},
        {"codec": FakeCodec(guidance_scale=2.0)},
        {"held_out": replace(real, tokens=real.tokens[::-1])},
        {"held_out": replace(real, labels=real.labels[::-1])},
        *({"request": replace(request, **other)} for other in requests),
    ]
    for change in changes:
        assert is_made(**change), change
        assert not is_made(**change), change
        assert is_made()
    assert is_made(request=replace(request, decoded=5))
    assert not is_made(request=replace(request, decoded=9))  # there are five
    assert is_made()
    for constant in ("generating.FIGURES_VERSION", "samplers.Aligned.version"):
        monkeypatch.setattr(f"imagegram.{constant}", 99)
        assert is_made(), constant


def test_seeds_of_several_processes_make_the_report_of_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index, real = random_index(tmp_path), real_images(9)
    request = Request(Draw(Aligned(), prompt=1), sequences=5, decoded=2, seed=3, seeds=3)

    def made(name: str, rank: int = 0, world_size: int = 1, request: Request = request) -> Run:
        processes = Processes(rank, world_size)
        return Run(index, FakeCodec(), real, request, tmp_path / name, processes).generate()

    one = made("one")
    assert not made("one").new
    assert "generated" not in made("parts", 1, 2).report  # it draws one seed of three
    assert "1 of 3 seeds are drawn" in capsys.readouterr().out
    (part,) = (tmp_path / "parts").glob("seed-*.npz")
    assert part.name == "seed-4.npz"
    written = part.stat().st_mtime_ns
    assert "generated" not in made("parts", 1, 2).report
    assert part.stat().st_mtime_ns == written
    part.write_bytes(part.read_bytes()[:-100])  # damaged: drawn again
    parts = made("parts")
    for kind in ("request", "generated", "held_out"):
        assert parts.report[kind] == one.report[kind]
    for name in ("tokens.npy", "sources.npy", "pictures.json", "image_0005.png", "grid.png"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    assert not list((tmp_path / "parts").glob("seed-*.npz"))
    for rank in (0, 1, 2):  # the first alone measures, though the last one finds all seeds drawn
        assert "generated" not in made("late", rank, 3).report

    # Against what the seeds draw each by itself: the decoded ones first.
    each = [replace(request, seed=seed, seeds=1) for seed in (3, 4, 5)]
    alone = [made(f"seed{one.seed}", request=one).path for one in each]
    tokens = [np.load(path / "tokens.npy") for path in alone]
    expected = np.concatenate([*(t[:2] for t in tokens), *(t[2:] for t in tokens)])
    assert np.array_equal(np.load(tmp_path / "parts/tokens.npy"), expected)
    for number, path in enumerate(alone):
        image = (path / "image_0001.png").read_bytes()
        assert (tmp_path / f"parts/image_{2 * number + 1:04}.png").read_bytes() == image
