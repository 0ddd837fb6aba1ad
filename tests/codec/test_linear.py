"""The linear codec: exact on its own grid, every prefix decodes, held-out images never fit it,
fitted once."""

import multiprocessing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from threadpoolctl import threadpool_limits

import overnight_run
from imagegram.cli import UserError
from imagegram.codec import linear_fit, load_codec
from imagegram.codec.linear import LinearCodec, features, pictures, save, scales
from imagegram.codec.linear_fit import curve, fit, open_linear, training_images
from imagegram.codec.sizes import Sizes, sizes_of
from imagegram.data.dataset import ImageDataset
from imagegram.data.scenes import scene
from imagegram.generating import open_codec
from imagegram.index.build import build_index
from imagegram.index.folder import Index
from tests.support.tokenize import tokenize

SIZES = Sizes(32, 16, (8, 8, 8, 5, 5, 5))
NAME = "linear:size=32,tokens=16"


def scenes(first: int, count: int) -> NDArray[np.uint8]:
    """Scenes of little contrast, whose reconstructions are not cut to 0 or 255."""
    pixels = np.stack([scene(4, i, 32)[0] for i in range(first, first + count)])
    return (96 + pixels.transpose(0, 3, 1, 2) / 5).astype(np.uint8)


def dataset(images: NDArray[np.uint8], fingerprint: str = "f") -> ImageDataset:
    def read(i: int) -> tuple[Image.Image, int]:
        return Image.fromarray(images[i].transpose(1, 2, 0)), -1

    return ImageDataset("scenes", "all", fingerprint, len(images), read)


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> LinearCodec:
    folder = tmp_path_factory.mktemp("linear")
    save(folder, **fit(scenes(0, 600), SIZES))
    return LinearCodec(folder, NAME)


@pytest.fixture(scope="module")
def unseen() -> torch.Tensor:
    return torch.from_numpy(scenes(5000, 100))


def test_what_was_decoded_has_the_tokens_that_it_was_decoded_from(
    codec: LinearCodec, unseen: torch.Tensor
) -> None:
    tokens = codec.encode(unseen)
    rebuilt = codec.decode(tokens)
    assert rebuilt.min() > 0
    assert rebuilt.max() < 255
    assert np.array_equal(codec.encode(rebuilt), tokens)
    assert tokens.shape == (100, 16)
    assert len(np.unique(tokens)) > 800


def test_every_prefix_decodes_whatever_it_is_decoded_with(
    codec: LinearCodec, unseen: torch.Tensor
) -> None:
    tokens = codec.encode(unseen)
    lengths = (1, 2, 4, 8, 16)
    rebuilt = [codec.decode(tokens[:, :length]).double() for length in lengths]
    errors = [float((images - unseen).square().mean().sqrt()) for images in rebuilt]
    assert (np.diff(errors) < 0).all()
    assert errors[::2] == pytest.approx([7.79905, 5.86543, 4.16725], rel=1e-4)  # as they were
    mixed = codec.decode([tokens[i, : lengths[i % 5]] for i in range(100)])
    for i in range(10):
        assert torch.equal(mixed[i], codec.decode([tokens[i, : lengths[i % 5]]])[0])


def test_tokens_depend_neither_on_the_batch_nor_on_the_threads(
    codec: LinearCodec, unseen: torch.Tensor
) -> None:
    tokens = codec.encode(unseen)
    with threadpool_limits(4):
        assert np.array_equal(codec.encode(unseen), tokens)
        assert np.array_equal(np.concatenate([codec.encode(one[None]) for one in unseen]), tokens)
        alone = torch.cat([codec.decode([row]) for row in tokens])
        assert torch.equal(codec.decode(tokens), alone)


def test_the_axes_of_features_are_at_right_angles_and_of_length_1() -> None:
    rng = np.random.default_rng(0)
    # squares of four of one colour
    even = rng.integers(0, 256, (4, 3, 16, 16), np.uint8).repeat(2, 2).repeat(2, 3)
    parts = features(even) * scales(32)
    assert np.square(parts).sum(1) == pytest.approx(np.square(even.astype(float)).sum((1, 2, 3)))
    assert np.array_equal(pictures(parts * scales(32), 32), even)


def test_a_curve_is_nearly_the_best_quantizer() -> None:
    column = np.random.default_rng(0).standard_normal(100_000)
    values, places = curve(column)
    middle = (np.floor(np.interp(column, values, places) * 8).clip(0, 7) + 0.5) / 8
    error = np.square(column - np.interp(middle, places, values)).mean()
    # Of 8 levels of a normal distribution Max (1960) has 0.0345, and Panter and Dite sqrt(3) pi / 2
    # / 64 = 0.0425.
    assert 0.0345 < error < 0.0425


def test_it_is_fitted_to_what_is_not_held_out_and_to_nothing_else(tmp_path: Path) -> None:
    images = scenes(0, 300)
    out = dataset(images).held_out(np.arange(300), 0.1)
    changed = images.copy()
    changed[out] = 255 - changed[out]
    assert len(training_images([dataset(images)], 0.1, 32)) == (~out).sum()
    first = open_linear(NAME, [dataset(images)], 0.1, tmp_path / "a")
    with threadpool_limits(4):
        second = open_linear(NAME, [dataset(changed)], 0.1, tmp_path / "b")
    changed[np.flatnonzero(~out)[0]] = 0
    third = open_linear(NAME, [dataset(changed)], 0.1, tmp_path / "c")
    assert first.revision == second.revision != third.revision


def test_of_many_images_a_sample_fits_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_fit, "MOST_BYTES", 50 * 4 * 32 * 32 * 3 // 2)
    first, second = scenes(0, 100), scenes(100, 100)
    chosen = training_images([dataset(first), dataset(second, "g")], 0.0, 32)
    assert len(chosen) == 50
    known = {image.tobytes() for image in first}
    assert 12 < sum(image.tobytes() in known for image in chosen) < 38


def test_a_fitted_one_is_opened_and_another_is_not_written_over_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = dataset(scenes(0, 60))
    fitted = open_linear(NAME, [source], 0.1, tmp_path)
    monkeypatch.setattr(linear_fit, "fit", None)
    assert open_linear(NAME, [source], 0.1, tmp_path).revision == fitted.revision
    others = [
        ("linear:size=32,tokens=8", source, 0.1),
        ("linear:size=34,tokens=16", source, 0.1),
        ("linear:size=32,tokens=16,levels=8-8", source, 0.1),
        (NAME, replace(source, fingerprint="g"), 0.1),
        (NAME, replace(source, images=50), 0.1),
        (NAME, source, 0.2),
    ]
    for name, data, share in others:
        with pytest.raises(UserError, match="fitted to something else"):
            open_linear(name, [data], share, tmp_path)
    monkeypatch.setattr(linear_fit, "FORMAT", 2)
    with pytest.raises(UserError, match="format: 1 -> 2"):
        open_linear(NAME, [source], 0.1, tmp_path)


def test_of_two_processes_one_fits(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    fork = multiprocessing.get_context("fork")
    source = dataset(scenes(0, 100))
    task = (NAME, [source], 0.1, tmp_path)
    both = [fork.Process(target=open_linear, args=task) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    assert capfd.readouterr().out.count("was fitted to") == 1


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("linear:tokens=0", "1 to 256 tokens"),
        ("linear:tokens=257", "1 to 256 tokens"),
        ("linear:size=33", "an even size of 32 to 128"),
        ("linear:levels=8-1", "2 or more"),
        ("linear:levels=256-256", "at most 65000"),
        ("linear:pixels=32", "says something else"),
        ("linear:levels=a", "says something else"),
    ],
)
def test_sizes_that_it_cannot_have(name: str, match: str) -> None:
    with pytest.raises(UserError, match=match):
        sizes_of(name)


def test_tokens_carry_their_codec_wherever_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("linear").mkdir()  # no codec, whatever it is called
    assert sizes_of("linear") == Sizes(64, 64, (8, 8, 8, 5, 5, 5))
    name = "linear:size=32,tokens=4,levels=5-5-5"
    here, there = tmp_path / "here", tmp_path / "there"
    tokens = tokenize("digits", here / "tokens", images=200, codec=name)
    index = build_index([tokens.path], here / "input", here / "index")
    assert index.levels == (5, 5, 5)
    with pytest.raises(UserError, match="kept in TOKENS/codec"):
        load_codec(name)
    fitted = str(tokens.path / "codec")
    assert sizes_of(fitted) == Sizes(32, 4, (5, 5, 5))

    # Other images with the same codec: their tokens have a copy, and go into one index.
    other = tokenize("shapes", here / "b", images=100, codec=fitted)
    assert other.manifest.revision == tokens.manifest.revision
    build_index([other.path, tokens.path], here / "input2", here / "both")
    here.rename(there)
    for folder in ("index", "both"):
        moved = Index.open(there / folder)
        decoded = open_codec(moved).decode(moved.tokens[:2], [0, 0], 1, 1.0)
        assert decoded.shape == (2, 3, 32, 32)
    weights = there / "tokens" / "codec" / "linear.safetensors"
    for content in (b"torn", None):
        weights.write_bytes(content) if content else weights.unlink()
        with pytest.raises(UserError, match=r"linear codec of .* is gone or damaged"):
            open_codec(Index.open(there / "index"))


def test_emoji_are_tokenized_with_it_unless_another_codec_is_named(tmp_path: Path) -> None:
    tokens = tokenize("emoji", tmp_path / "emoji", images=60)
    assert (tokens.manifest.codec, tokens.manifest.image_size) == ("linear", 64)
    assert tokenize("digits", tmp_path / "digits", images=60).manifest.codec == "tiny"
    for options, codecs in (
        ({}, ["tiny"]),
        ({"separate": True}, ["tiny", "linear"]),
        ({"separate": True, "codec": "fashion"}, ["fashion", "fashion"]),
    ):
        config = overnight_run.Config(dataset=("digits", "emoji"), **options)
        assert [plan.codec for plan in overnight_run.make_plans(config)] == codecs
