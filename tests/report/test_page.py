"""The page: one file that asks nobody for anything, with links and colours that serve readers."""

import csv
import itertools
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from imagegram.cli import UserError
from imagegram.report.page import Sources, write_page
from imagegram.report.pictures import COLOURS, PALETTE, SPARE, Originals
from tests.support.nights import DRAWS, small_night

MANY = {"value": 0.77, "low": 0.7, "high": 0.8}  # a figure


class Page(HTMLParser):
    """What a test asks of the page: attributes of elements, text, the data of its script."""

    def __init__(self, file: Path):
        super().__init__()
        self.source = file.read_text()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.text = ""
        self.data = ""
        self.style = ""
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        self.open.append(tag)

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["style"]:
            self.style += data
        elif self.open[-1:] == ["script"]:
            self.data = self.data or data
        else:
            self.text += data

    def handle_endtag(self, tag: str) -> None:
        if tag in self.open:
            del self.open[len(self.open) - 1 - self.open[::-1].index(tag) :]

    def all(self, attribute: str) -> list[str]:
        return [attributes[attribute] for _, attributes in self.elements if attribute in attributes]


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    return small_night(tmp_path_factory.mktemp("night") / "a night")


@pytest.fixture(scope="module")
def page(night: Sources) -> Page:
    return Page(night.out / "report.html")


def test_nothing_is_fetched_and_links_lead_to_what_is_there(night: Sources, page: Page) -> None:
    assert page.source.startswith("<!doctype html>")
    urls = re.findall(r"url\(([^)]*)\)", page.source) + page.all("src")
    assert urls
    assert all(url.startswith("data:image/") for url in urls)
    assert not re.search(r"https?://|@import|fetch\(|XMLHttpRequest|<link", page.source)
    ids = page.all("id")
    assert len(ids) == len(set(ids))
    for href in page.all("href"):
        if href.startswith("#"):
            assert href[1:] in ids, href
        elif not href.startswith("data:"):
            assert (night.out / href.replace("%20", " ")).is_file(), href
    assert len(page.source) < 3e6


def test_phones_and_readers_of_screens_are_served(page: Page) -> None:
    viewport = {"name": "viewport", "content": "width=device-width, initial-scale=1"}
    assert ("meta", viewport) in page.elements
    assert ("html", {"lang": "en"}) in page.elements
    tags = [tag for tag, _ in page.elements]
    assert tags.count("h1") == tags.count("main") == 1
    assert all(attributes.get("alt") for tag, attributes in page.elements if tag == "img")
    assert all("scope" in attributes for tag, attributes in page.elements if tag == "th")
    assert "prefers-color-scheme: dark" in page.style


def luminance(colour: str) -> float:
    """Of #rrggbb, as WCAG 2 defines it."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_colours_can_be_read_in_light_and_in_dark(page: Page) -> None:
    blocks = page.style.split(":root {")[1:3]
    light, dark = (dict(re.findall(r"--([a-z]+): (#\w{6})", block)) for block in blocks)
    assert light["paper"] != dark["paper"]
    surfaces = ("paper", "card", "band")
    cells = (*PALETTE, *COLOURS.values(), *SPARE)  # of tokens, and points of the plot
    for shapes, on, least in (
        (("ink", "muted", "link", "accent"), surfaces, 4.5),
        (("edge", "focus"), surfaces, 3),
        (cells, surfaces[:2], 3),
    ):
        for colours, shape, surface in itertools.product((light, dark), shapes, on):
            seen = contrast(colours.get(shape, shape), colours[surface])
            assert seen >= least, (shape, surface, colours)


def test_the_data_of_the_page_is_that_of_the_files(night: Sources, page: Page) -> None:
    data = json.loads(page.data)
    for name in ("copies", "two words", "unigram"):
        sources = np.load(night.night.folder(night.out, name) / "sources.npy")
        pictures = data["galleries"][name]["pictures"]
        assert len(pictures) == 20
        for row, picture in zip(sources, pictures, strict=False):
            places = [tuple(data["images"][number][:2]) for number in picture["sources"]]
            assert places == [tuple(place) for place in row[:, :2].tolist()]
            assert picture.get("positions", list(range(8))) == row[:, 2].tolist()
    labels = {tuple(place): label for *place, label in night.index.images.tolist()}
    held_out = {tuple(place) for place in night.held_out.origins.tolist()}
    for *place, label in data["images"]:
        assert labels.get(tuple(place), label) == label
        assert (tuple(place) in labels) != (tuple(place) in held_out)
    assert "answer" in page.source
    assert "copies" in page.text
    assert "overnight_run.py --test '<b>'" in page.text  # escaped, and read back


def test_the_image_whose_tokens_were_given_and_the_nearest_in_codes_are_those_of_the_tokens(
    night: Sources, page: Page
) -> None:
    data = json.loads(page.data)
    tokens = np.load(night.night.folder(night.out, "completes") / "tokens.npy")
    held_out, rows = (
        dict(zip(map(tuple, places[:, :2].tolist()), tokens, strict=True))
        for places, tokens in (
            (night.held_out.origins, night.held_out.tokens),
            (night.index.images, night.index.tokens),
        )
    )
    training = np.unique(night.index.tokens[:, :6], axis=0).astype(int)

    def distances(row: np.ndarray, others: np.ndarray) -> np.ndarray:
        """In codes: the digits of base 3, each a unit apart."""
        powers = 3 ** np.arange(3)
        apart = others[..., None] // powers % 3 - row[:, None] // powers % 3
        return np.sqrt(np.square(apart).sum((-1, -2)))

    for row, picture in zip(tokens, data["galleries"]["completes"]["pictures"], strict=False):
        given = held_out[tuple(data["images"][picture["given"]][:2])]
        assert given[:2].tolist() == row[:2].tolist()
        assert picture["sources"][:2] == [-1, -1]
        near = np.sort(distances(row.astype(int), training))
        mine = rows[tuple(data["images"][picture["nearest_in_codes"]][:2])][:6]
        assert distances(row.astype(int), mine.astype(int)) == pytest.approx(near[0])
        assert picture["gap_ratio"] == pytest.approx(near[0] / near[1], abs=1e-3)
    assert "length 6, prompt 2" in page.text


def test_a_failed_sampler_is_named_and_the_others_are_shown(tmp_path: Path) -> None:
    small_night(tmp_path, failed="copies")
    page = Page(tmp_path / "report.html")
    assert "copies failed" in page.text
    assert "a reason with <angles>" in page.text
    shown = {*DRAWS, "held-out"} - {"copies"}
    assert set(json.loads(page.data)["galleries"]) == shown


def test_a_night_of_a_sampler_that_is_gone_says_so(tmp_path: Path) -> None:
    sources = small_night(tmp_path / "night")
    name = next(iter(DRAWS))
    report_file = sources.night.folder(sources.out, name) / "report.json"
    report = json.loads(report_file.read_text())
    for old, message in (("soft", "no sampler 'soft'"), ("", "an earlier version")):
        for stored in (report["request"], sources.night.samplers[name]):
            stored["sampler"] = old
            if not old:
                del stored["sampler"]
        report_file.write_text(json.dumps(report))
        with pytest.raises(UserError, match=message):
            write_page(sources)


def test_missing_figures_and_lost_data_sets_are_said(tmp_path: Path) -> None:
    sources = small_night(tmp_path, datasets=(("shapes", 100),))
    page = Page(tmp_path / "report.html")
    missing = "Coherence, density and coverage are missing"
    assert re.search(rf"{missing}: \d+ images are held out, 40 are needed", page.text)
    assert "It cannot be told whether n-grams can generate these images" in page.text
    assert ": most like real images" not in page.text
    assert "No sampler can be better than this" in page.text
    manifest = sources.originals.folders[0].path / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"shapes"', '"gone/for/good"'))
    write_page(replace(sources, originals=Originals(sources.index.token_folders())))
    page = Page(tmp_path / "report.html")
    assert "without a picture" in page.source or "s-real" in page.source
    assert "No sampler can be better than this" not in page.text  # nothing to compare with


def test_no_page_names_the_folders_of_whoever_made_it(
    night: Sources, page: Page, tmp_path: Path
) -> None:
    index = replace(night.index, codec="/home/me/my_codec")
    command, failed = "overnight_run.py --out /home/me/night", {"x": "/home/me/night is full"}
    left = replace(night.night, command=command, failed=failed)
    text = write_page(replace(night, out=tmp_path, night=left, index=index)).read_text()
    assert "/home/me" not in text
    assert ".../my_codec" in text
    assert str(night.out) not in page.source


@pytest.mark.parametrize(("codec", "linear"), [("linear:size=32", True), ("tiny", False)])
def test_the_page_says_where_a_linear_codec_rebuilt_its_pictures(
    night: Sources, tmp_path: Path, codec: str, linear: bool
) -> None:
    sources = replace(night, out=tmp_path / "other", index=replace(night.index, codec=codec))
    shutil.copytree(night.out, sources.out)
    text = " ".join(Page(write_page(sources)).text.split())
    said = f"what the codec {codec} makes of their 8 tokens (below). "
    if linear:
        said += "It is a linear codec fitted to these images, no network: "
        said += "it paints nothing of its own. "
    assert said + "No sampler can be better than this." in text


def test_a_copy_is_shown_beside_its_source_as_the_codec_rebuilds_it(
    night: Sources, page: Page
) -> None:
    data = json.loads(page.data)
    assert data["galleries"]["copies"]["rebuilt"]
    assert not data["galleries"]["held-out"]["rebuilt"]
    folder = night.night.folder(night.out, "copies")
    facts = json.loads((folder / "pictures.json").read_text())
    exact = [i for i, fact in enumerate(facts) if fact["differs"] == 0]
    assert exact
    for i in exact:
        files = [folder / f"{kind}_{i:04d}.png" for kind in ("nearest", "image")]
        assert files[0].read_bytes() == files[1].read_bytes()
    assert "the nearest training image, rebuilt by the same codec" in page.text


def test_what_is_taken_away_has_the_figures_of_the_reports(night: Sources) -> None:
    folder = night.out / "figures"
    file = night.night.folder(night.out, "copies") / "report.json"
    report = json.loads(file.read_text())["generated"]
    known = csv.DictReader((folder / "figures.csv").read_text().splitlines())
    values = {row["figure"]: float(row["value"]) for row in known if row["sampler"] == "copies"}
    assert values["closer_than_held_out"] == report["closer_than_held_out"]["value"]
    assert re.search(r"\| copies \| .*\d", (folder / "figures.md").read_text())
    assert re.search(r"\ncopies & .*\\% .*\\\\\n", (folder / "figures.tex").read_text())
    assert (folder / "frontier.svg").exists() == ("coherence" in report)
