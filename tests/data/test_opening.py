"""Every form of data set gives the same pictures; every bad picture is named and stops nothing."""

import struct
import sys
import zlib
from importlib.resources import files
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from imagegram.cli import UserError
from imagegram.data.contents import open_picture
from imagegram.data.dataset import held_out
from imagegram.data.loading import load_batches, load_images
from imagegram.data.preprocess import preprocess, to_rgb
from imagegram.data.scenes import KINDS, scene
from imagegram.index.indexed import IndexedImages
from imagegram.tokens import TokenFolder
from tests.support.datasets import encoded, put, write_tar
from tests.support.opened import described, labels, open_dataset, refused, same_pictures
from tests.support.tables import save
from tests.support.tokenize import tokenize


def pixels(image: Image.Image) -> np.ndarray:
    """RGB values, uint8 [H, W, 3]."""
    return np.asarray(image.convert("RGB"))


def tar_of(pictures: list[Image.Image], path: Path) -> Path:
    """A WebDataset tar of pictures with labels 0, 1, 2, 0, ..."""
    members = []
    for i, picture in enumerate(pictures):
        members += [(f"{i:03d}.png", encoded(picture, "PNG")), (f"{i:03d}.cls", b"%d" % (i % 3))]
    return write_tar(path, *members)


def test_held_out_is_a_stable_share_that_ignores_the_size_of_the_data() -> None:
    mask = held_out(np.arange(100_000), 0.1)
    assert abs(mask.mean() - 0.1) < 0.005
    assert (held_out(np.arange(1000), 0.1) == mask[:1000]).all()
    assert not (mask & ~held_out(np.arange(100_000), 0.2)).any()  # a larger share only adds images
    assert abs(np.corrcoef(mask[:-1], mask[1:])[0, 1]) < 0.02  # neighbours are independent


def test_shapes_depend_on_seed_and_ordinal_alone_and_scale_with_the_size() -> None:
    first, label = scene(0, 7)
    again, _ = scene(0, 7)
    assert (first == again).all()
    assert 0 <= label < len(KINDS)
    assert (scene(1, 7)[0] != first).any()
    assert (scene(0, 8)[0] != first).any()
    large = Image.fromarray(scene(0, 7, 256)[0]).resize((32, 32), Image.Resampling.BOX)
    difference = np.abs(np.asarray(large, np.float32) - first)
    assert difference.mean() < 3  # the same scene at another resolution
    labels = [scene(0, i)[1] for i in range(600)]
    assert np.bincount(labels, minlength=len(KINDS)).min() > 60


def test_digits_and_shapes_open_by_name() -> None:
    digits = open_dataset("digits")
    assert (len(digits), digits.class_names) == (1797, tuple("0123456789"))
    assert digits.read(5)[1] == 5
    assert len(open_dataset("shapes", images=30)) == 30
    assert open_dataset("shapes", images=3, image_size=64).read(2)[0].size == (64, 64)


def test_folder_tar_and_saved_data_set_give_the_same_pictures(
    tmp_path: Path, image_folder: Path, pictures: list[Image.Image]
) -> None:
    classes = datasets.ClassLabel(names=["a", "b", "c"])
    features = {"caption": datasets.Value("string"), "img": datasets.Image(), "fine": classes}
    rows = {"caption": ["x"] * 12, "img": pictures, "fine": [i % 3 for i in range(12)]}
    saved = open_dataset(save(tmp_path / "saved", rows, features))
    assert (saved.image_column, saved.label_column) == ("img", "fine")
    assert saved.class_names == ("a", "b", "c")
    for source in (saved, open_dataset(tar_of(pictures, tmp_path / "a.tar"))):
        assert same_pictures(source, pictures)
        assert labels(source) == [i % 3 for i in range(12)]
    folder = open_dataset(image_folder)
    assert labels(folder) == [0] * 6 + [1] * 6
    assert same_pictures(folder, pictures[::2] + pictures[1::2])


def test_a_data_set_dict_needs_a_split_it_has(tmp_path: Path, pictures: list[Image.Image]) -> None:
    data = datasets.Dataset.from_dict({"image": pictures}).cast_column("image", datasets.Image())
    datasets.DatasetDict({"train": data}).save_to_disk(tmp_path / "saved")
    assert len(open_dataset(tmp_path / "saved")) == 12
    refused(tmp_path / "saved", "no split 'test'; it has train", split="test")
    refused(tmp_path / "saved", "no column 'label'; it has image", label_column="label")


def test_a_truncated_tar_keeps_its_complete_samples(
    tmp_path: Path, pictures: list[Image.Image]
) -> None:
    tar = tar_of(pictures, tmp_path / "a.tar")
    data = tar.read_bytes()
    tar.write_bytes(data[: data.index(b"007.png") + 700])  # inside of the picture
    assert labels(open_dataset(tar)) == [0, 1, 2, 0, 1, 2, 0]
    assert "complete samples are kept" in described(tar)


def test_unusual_pictures_become_the_expected_rgb() -> None:
    palette = Image.new("P", (4, 4), 3)
    palette.putpalette([0, 0, 0] * 3 + [0, 255, 0])
    for picture, expected in (
        (Image.new("RGB", (4, 4), (255, 0, 0)).convert("CMYK"), [255, 0, 0]),
        (Image.new("RGBA", (4, 4), (255, 0, 0, 0)), [255, 255, 255]),  # the white behind it
        (Image.new("LA", (4, 4), (0, 127)), [128, 128, 128]),
        (palette, [0, 255, 0]),
        (open_picture(encoded(palette, "PNG", transparency=3)), [255, 255, 255]),
        (Image.fromarray(np.full((4, 4), 65535 // 2, np.uint16)), [127, 127, 127]),
    ):
        assert pixels(to_rgb(picture))[0, 0].tolist() == expected


def test_preprocess_resizes_the_shorter_side_and_crops_the_centre() -> None:
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 200
    out = preprocess(Image.fromarray(wide), 10)
    assert (out.shape, out.dtype) == ((3, 10, 10), torch.uint8)
    assert (out == 200).all()
    assert preprocess(Image.new("L", (8, 8), 255), 32).shape == (3, 32, 32)


def test_bad_pictures_are_reported_with_their_reason(image_folder: Path) -> None:
    good = (image_folder / "class0" / "00.png").read_bytes()
    put(image_folder / "class0" / "empty.jpg")
    put(image_folder / "class0" / "page.jpg", b"<html></html>")
    put(image_folder / "class0" / "short.png", good[: len(good) // 2])
    Image.new("1", (20_000, 20_000)).save(image_folder / "class1" / "bomb.png")
    source = open_dataset(image_folder)
    items = list(load_images(source, source.ordinals, 32, workers=0))
    assert [i for i, *_ in items] == list(range(16))
    reasons = [reason for _, image, _, reason in items if image is None]
    assert not any("0x" in reason for reason in reasons)
    kinds = ["DecompressionBombError", "OSError", *["UnidentifiedImageError"] * 2]
    assert sorted(reason.split(":")[0] for reason in reasons) == kinds


def test_workers_and_no_workers_read_the_same(image_folder: Path) -> None:
    source = open_dataset(image_folder)

    def read(workers: int) -> list[list[tuple[int, int, bytes]]]:
        batches = load_batches(source, [[0, 1, 2], [3], [10, 11]], 32, workers)
        return [
            [(i, label, np.asarray(image).tobytes()) for i, image, label, _ in one]
            for one in batches
        ]

    assert read(0) == read(2)


def test_what_stands_beside_the_pixels_does_not_decide_over_them() -> None:
    """A damaged eXIf chunk, two megabytes of text, a profile as large: the same pixels as without
    them."""
    picture = Image.fromarray(scene(1, 3)[0])
    plain = encoded(picture, "PNG")

    def with_chunk(kind: bytes, content: bytes) -> bytes:
        length, check = len(content), zlib.crc32(kind + content)
        chunk = struct.pack(">I", length) + kind + content + struct.pack(">I", check)
        return plain[:33] + chunk + plain[33:]  # after the header

    for kind, content in (
        (b"eXIf", b"II*\0\x08\0\0\0\x01\0" + b"\xff" * 3),
        (b"eXIf", b"garbage"),
        (b"zTXt", b"Comment\0\0" + zlib.compress(b"a" * 2_000_000)),
        (b"iCCP", b"icc\0\0" + zlib.compress(b"a" * 2_000_000)),
    ):
        assert (pixels(to_rgb(open_picture(with_chunk(kind, content)))) == pixels(picture)).all()


def test_deep_greys_are_scaled_by_their_format() -> None:
    ramp = np.tile(np.linspace(0, 1, 16, dtype=np.float32), (16, 1))
    expected = ramp * 255
    for values in (
        ramp,  # floats up to 1
        ramp * 255,
        ramp * 65535,
        (ramp * 65535).astype(np.uint16),
        (ramp * 65535).astype(np.int32),
        (ramp.astype(np.float64) * (2**31 - 1)).astype(np.int32),
    ):
        assert np.abs(pixels(to_rgb(Image.fromarray(values)))[..., 0] - expected).max() <= 1
    # one dark frame of a set of 16 bits is dark
    dark = Image.fromarray((ramp * 255).astype(np.uint16))
    assert pixels(to_rgb(dark)).max() == 0


def test_every_exif_orientation_is_that_of_pillow() -> None:
    picture = Image.fromarray(scene(1, 3)[0][:20])
    for orientation in range(10):
        for kind in ("JPEG", "PNG", "TIFF", "WEBP"):
            exif = Image.Exif()
            exif[0x0112] = orientation
            data = encoded(picture, kind, exif=exif)
            turned = ImageOps.exif_transpose(open_picture(data))
            assert (pixels(to_rgb(open_picture(data))) == pixels(turned)).all()


@pytest.mark.parametrize("size", [32, 64])
def test_only_the_square_that_is_kept_is_resized_and_its_pixels_are_the_same(size: int) -> None:
    rng = np.random.default_rng(0)
    for _ in range(40):
        width, height = rng.integers(3, 150, 2)
        picture = Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))
        scale = size / min(picture.size)
        whole = picture.resize(
            [max(size, round(side * scale)) for side in picture.size], Image.Resampling.BILINEAR
        )
        left, top = (whole.width - size) // 2, (whole.height - size) // 2
        expected = np.asarray(whole.crop((left, top, left + size, top + size)), np.int16)
        assert np.abs(preprocess(picture, size).permute(1, 2, 0).numpy() - expected).max() <= 1

    # enlarged whole: 6 to 12 GB
    assert preprocess(Image.new("1", (1, 1_000_000)), size).shape == (3, size, size)


def test_one_warning_a_picture_is_none(
    tmp_path: Path, recwarn: pytest.WarningsRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    exif = b"Exif\0\0II*\0\x08\0\0\0\x02\0" + struct.pack("<HHII", 0x0112, 3, 1, 6)
    # a directory of places beyond the end
    exif += struct.pack("<HHII", 0x8825, 4, 1, 0xFFFFFF) + b"\0\0\0\0"
    jpeg = encoded(Image.fromarray(scene(1, 3)[0]), "JPEG")
    segment = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
    put(tmp_path / "0.jpg", jpeg[:2] + segment + jpeg[2:])
    Image.new("1", (40, 40)).save(tmp_path / "1.png")
    # it warns from there on, and refuses from twice as many on
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1200)
    items = load_images(open_dataset(tmp_path), np.arange(2), 32, workers=0)
    assert all(pixels is not None for _, pixels, _, _ in items)
    assert not [warning for warning in recwarn if "PIL" in str(warning.filename)]


def photograph() -> Image.Image:
    """A photograph of 640 x 427 pixels that scikit-learn carries."""
    return open_picture(files("sklearn.datasets").joinpath("images/china.jpg").read_bytes())


@pytest.mark.parametrize(
    ("size", "scaled"), [(32, (160, 107)), (64, (320, 214)), (256, (640, 427))]
)
def test_a_jpeg_decoded_smaller_has_nearly_the_same_pixels(
    size: int, scaled: tuple[int, int]
) -> None:
    picture = photograph()
    pixels = preprocess(picture, size, margin=3)
    # the smallest whose shorter side is three times that of the result
    assert picture.size == scaled
    difference = (pixels.float() - preprocess(photograph(), size).float()).abs()
    whole = scaled == (640, 427)  # then what differs is how PyTorch rounds
    assert difference.mean() <= (0.05 if whole else 1.5)  # grey levels of 255
    assert difference.max() <= (2 if whole else 20)


@pytest.mark.parametrize("decoder", ["Pillow", "simplejpeg"])
def test_whole_jpegs_are_resized_alike(decoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if decoder == "Pillow":
        monkeypatch.setitem(sys.modules, "simplejpeg", None)  # not to be imported
    else:
        pytest.importorskip("simplejpeg")
    turned = Image.Exif()
    turned[0x0112] = 6
    pictures = [(photograph().convert(mode), Image.Exif()) for mode in ("RGB", "L", "CMYK")]
    for picture, exif in (*pictures, (photograph(), turned)):
        for shape in ((300, 200), (400, 40), (256, 256)):
            data = encoded(picture.crop((0, 0, *shape)), "JPEG", exif=exif)
            exact, quick = (preprocess(open_picture(data), 256, margin) for margin in (0, 1))
            assert (exact.int() - quick.int()).abs().max() <= 2
    with pytest.raises(OSError, match="truncated"):
        preprocess(open_picture(data[:-1000]), 256, 1)


def test_simplejpeg_decodes_what_pillow_does(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("simplejpeg")
    for options in ({"subsampling": 0}, {"subsampling": 2}, {"progressive": True}):
        data = encoded(photograph(), "JPEG", **options)
        quick = preprocess(open_picture(data), 256, 1000)
        with monkeypatch.context() as without:
            without.setitem(sys.modules, "simplejpeg", None)
            assert torch.equal(quick, preprocess(open_picture(data), 256, 1000))


def test_tokens_of_whole_and_of_smaller_jpegs_are_never_mixed(tmp_path: Path) -> None:
    for i in range(4):
        crop = photograph().crop((100 * i, 0, 100 * i + 300, 400))
        put(tmp_path / "images" / f"{i}.jpg", encoded(crop, "JPEG"))
    images = str(tmp_path / "images")
    whole = tokenize(images, tmp_path / "whole").path
    smaller = tokenize(images, tmp_path / "smaller", jpeg_margin=2).path
    with pytest.raises(UserError, match="preprocessing"):
        tokenize(images, whole, jpeg_margin=2)
    with pytest.raises(UserError, match="preprocessing"):
        IndexedImages([TokenFolder.open(whole), TokenFolder.open(smaller)])
