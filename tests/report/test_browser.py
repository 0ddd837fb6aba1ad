"""The page in a browser: nothing is fetched, nothing is an obstacle, and pointing shows what the
files say.

Runs where Chromium is installed, with playwright and axe-core from requirements-page.txt: `make
test-page`.
"""

import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imagegram.report.page import Sources, write_stopped_page
from tests.support.nights import small_night

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
if not CHROMIUM:
    pytest.skip("no Chromium in the PATH", allow_module_level=True)
playwright = pytest.importorskip(
    "playwright.sync_api", reason="playwright is missing: make test-page installs it"
)
axe_package = pytest.importorskip(
    "axe_playwright_python", reason="axe-core is missing: make test-page installs it"
)

AXE = Path(axe_package.__file__).parent / "axe.min.js"
WIDE = {"width": 1280, "height": 900}
NARROW = {"width": 390, "height": 844}
NAME = "two words"  # a sampler of the small night


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    return small_night(tmp_path_factory.mktemp("night"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def show(browser: Any, night: Sources) -> Iterator[Any]:
    """Opens the page; at the end nothing must have been asked for, and no error reported."""
    asked: list[str] = []
    errors: list[str] = []
    contexts = []

    def open_page(place: str = "", viewport: dict[str, int] = WIDE, scheme: str = "light") -> Any:
        context = browser.new_context(viewport=viewport, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: errors.append(message.text))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto((night.out / "report.html").as_uri() + place)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert {url.partition("#")[0] for url in asked if not url.startswith("data:")} == {
        (night.out / "report.html").as_uri()
    }
    assert not errors


def check_with_axe(page: Any) -> None:
    """Fail on a serious violation of axe-core's rules, and where the page is too wide."""
    page.add_script_tag(content=AXE.read_text())
    violations = page.evaluate("axe.run()")["violations"]
    grave = [one for one in violations if one["impact"] in ("serious", "critical")]
    assert not grave, [
        (one["id"], one["help"], [node["html"][:200] for node in one["nodes"][:3]]) for one in grave
    ]
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [WIDE, NARROW], ids=["1280", "390"])
def test_axe_finds_no_serious_violation(show: Any, viewport: dict[str, int], scheme: str) -> None:
    page = show(f"#{NAME}/2/3", viewport, scheme)
    page.evaluate(
        "document.querySelectorAll('details').forEach((details) => { details.open = true; })"
    )
    check_with_axe(page)


def test_the_page_of_a_stopped_night_can_be_read(
    browser: Any, night: Sources, tmp_path: Path
) -> None:
    failed = replace(night.night, failed={"building the index": "no room"})
    page = browser.new_page(viewport=NARROW, color_scheme="dark")
    page.goto(write_stopped_page(tmp_path, failed).as_uri())
    check_with_axe(page)
    page.close()


def test_no_link_of_a_page_that_was_sent_alone_leads_nowhere(
    browser: Any, night: Sources, tmp_path: Path
) -> None:
    shutil.copy(night.out / "report.html", tmp_path)
    said = "lies in the folder of the night, which is not beside this page"
    for out in (night.out, tmp_path):
        page = browser.new_page(viewport=WIDE)
        page.goto((out / "report.html").as_uri() + f"#{NAME}/3")
        links = page.evaluate(
            "[...document.querySelectorAll('a[href]')].map((a) => a.getAttribute('href'))"
        )
        outside = [link for link in links if not link.startswith(("#", "data:"))]
        assert outside == [f"generated/{NAME}-seed3/image_0003.png"]
        page.get_by_role("link", name="at full size").click()
        if out == night.out:
            page.wait_for_url("**/image_0003.png")
        else:
            page.get_by_text(said).wait_for()
            assert page.url.endswith(f"report.html#{NAME.replace(' ', '%20')}/3")
        page.close()


def said_of(page: Any) -> str:
    return str(page.locator("#token").inner_text())


def expected(night: Sources, name: str, picture: int, token: int) -> str:
    """What the page must say of the place that a token came from."""
    sources = np.load(night.night.folder(night.out, name) / "sources.npy")
    _, ordinal, position = sources[picture, token]
    return f"token {position + 1} of shapes #{ordinal}, class "


def test_hovering_a_cell_shows_its_source(show: Any, night: Sources) -> None:
    page = show()
    page.select_option("#choose", NAME)
    for picture in (0, 7):
        bar = page.locator(f'[id="{NAME}/{picture}"] .bar')
        bar.scroll_into_view_if_needed()
        box = bar.bounding_box()
        for token in range(8):
            page.mouse.move(
                box["x"] + box["width"] * (token + 0.5) / 8, box["y"] + box["height"] / 2
            )
            assert said_of(page).startswith(f"Token {token + 1} of 8 is ")
            assert expected(night, NAME, picture, token) in said_of(page)
    page.locator(".tokens button").nth(4).hover()
    assert expected(night, NAME, 7, 4) in said_of(page)


def test_a_tap_shows_the_picture_and_its_token_on_a_phone(show: Any, night: Sources) -> None:
    page = show("", NARROW)
    page.select_option("#choose", NAME)
    page.locator(f'[id="{NAME}/3"]').click()
    page.locator(".tokens button").nth(5).click()
    assert expected(night, NAME, 3, 5) in said_of(page)
    page.get_by_role("button", name="Close").click()
    assert page.locator("#panel").is_hidden()


def test_the_keyboard_reaches_everything(show: Any, night: Sources) -> None:
    page = show(f"#{NAME}/0")
    reachable = page.evaluate(
        """() => [...document.querySelectorAll(
                "a[href], button, select, input, summary, [tabindex='0']")]
            .filter((e) => e.checkVisibility() && e.tabIndex >= 0).length"""
    )
    page.evaluate("document.body.tabIndex = -1; document.body.focus();")
    reached = set()
    for _ in range(reachable):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate("[...document.querySelectorAll('*')].indexOf(document.activeElement)")
        )
        # it is seen
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
    assert len(reached) == reachable

    # From a picture to the next, into its tokens, and along them.
    page.locator(f'[id="{NAME}/0"]').focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.id") == f"{NAME}/1"
    page.locator(".tokens button").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert said_of(page).startswith("Token 3 of 8 is ")
    assert expected(night, NAME, 1, 2) in said_of(page)


def test_a_picture_stands_beside_the_real_images_that_it_is_compared_with(show: Any) -> None:
    page = show("#completes/4")
    said = page.locator(".pair").inner_text()
    for role in ("generated", "gave the first tokens", "nearest in tokens", "nearest in codes"):
        assert role in said
    assert "(gap ratio; below 0.333 it counts as memorized)" in page.locator("#panel").inner_text()
    page.locator(".tokens button").nth(1).click()
    assert said_of(page) == "Token 2 of 6 was given."


def test_the_gallery_is_sorted_and_two_galleries_stand_side_by_side(show: Any) -> None:
    page = show()
    page.select_option("#choose", NAME)
    page.select_option("#beside", "copies")
    galleries = [page.locator(f'section[id="{name}"]').bounding_box() for name in (NAME, "copies")]
    assert (
        galleries[0]["y"] == galleries[1]["y"] or abs(galleries[0]["x"] - galleries[1]["x"]) > 100
    )
    page.select_option("#order", "nearest")
    labels = page.locator(f'section[id="{NAME}"] .picture .sprite').evaluate_all(
        "all => all.map((e) => e.getAttribute('aria-label'))"
    )
    differs = [int(re.findall(r"(\d+) tokens differ", label)[0]) for label in labels]
    assert differs == sorted(differs)
    page.get_by_role("button", name="exact copies").click()
    first = page.locator(".figures tbody tr").first.inner_text()
    assert first.startswith("copies")


def test_a_link_shares_what_is_seen_and_a_source_lists_its_pictures(
    show: Any, night: Sources
) -> None:
    page = show(f"#{NAME}/2/3")
    page.select_option("#beside", "copies")
    page.select_option("#order", "copied")
    shared = page.locator("#share").get_attribute("href")
    again = show(shared)
    assert [again.locator(f"#{each}").input_value() for each in ("choose", "beside", "order")] == [
        NAME,
        "copies",
        "copied",
    ]
    assert said_of(again) == said_of(page)
    assert f"#{NAME}/2" in again.locator(".gave a").evaluate_all(
        "all => all.map((a) => a.getAttribute('href'))"
    )
