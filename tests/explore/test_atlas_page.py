"""The atlas in a real browser, opened from the file system."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from PIL import Image
from playwright.sync_api import Page, expect

from tests.explore.accessible import assert_accessible
from tests.explore.synthetic import write_atlas

SITES = ("transformer_blocks.3", "transformer_blocks.7:mlp@wide")
NUM_LATENTS = 70
RED, CUBE = 4, 65

HOSTILE = [
    """<script>document.title = "bad"</script><img src=x onerror='document.title = "bad"'> &amp; "quoted" </td>""",
    "\u202eمكعب أحمر كبير \u2066\u05d0\u05d3\u05d5\u05dd\u2069 على اليسار",
    "red " + "x" * 10_000,
    "`${alert(1)}` \\u003cb\\u003e \u2028 \u0000 javascript:alert(1)",
]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Latent RED peaks in red images, CUBE in cubes, the others anywhere."""
    captions = [f"a {colour} {shape}" for colour in ("red", "blue") for shape in ("cube", "ball")] * 15
    peaks = 1 + torch.rand(NUM_LATENTS, len(captions), generator=torch.Generator().manual_seed(0))
    peaks[RED] += 5 * torch.tensor([float("red" in caption) for caption in captions])
    peaks[CUBE] += 5 * torch.tensor([float("cube" in caption) for caption in captions])
    pictures = [Image.new("RGB", (40, 40), caption.split()[1]) for caption in captions]
    labels = [{"colour": [caption.split()[1]]} for caption in captions]
    return write_atlas(tmp_path_factory.mktemp("pages"), captions, peaks, pictures, labels, SITES).as_uri()


_LAYERS = """() => [...new Set([...document.querySelectorAll(".looks .tile i")]
  .map((layer) => new URL(layer.style.backgroundImage.slice(5, -2), document.baseURI).href))]"""

_LOADED = """(sources) => Promise.all(sources.map((source) => new Promise((done) => {
  const image = new Image();
  image.onload = () => done(image.naturalWidth > 0);
  image.onerror = () => done(false);
  image.src = source;
}))).then((all) => all.every(Boolean))"""

_CONTRAST = """() => {
  const light = (colour) => colour.match(/[\\d.]+/g).slice(0, 3).map((c) => Number(c) / 255)
    .map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, place) => sum + c * [0.2126, 0.7152, 0.0722][place], 0);
  const behind = (one) => {
    const colour = getComputedStyle(one).backgroundColor;
    return colour.endsWith(", 0)") && one.parentElement ? behind(one.parentElement) : colour;
  };
  const says = (one) => [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
  const shown = [...document.querySelectorAll("main *, header *")]
    .filter((one) => one.checkVisibility() && !one.closest("svg") && !one.disabled && says(one));
  return Math.min(...shown.map((one) => {
    const [a, b] = [light(getComputedStyle(one).color), light(behind(one))];
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  }));
}"""
"""The least contrast of any text with what is behind it."""


def opened(page: Page, address: str) -> Page:
    page.goto(address)
    page.wait_for_selector("body[data-ready]")
    return page


def cards(page: Page) -> list[str]:
    return [str(card.get_attribute("href")) for card in page.locator("#cards .card").all()]


def test_a_word_finds_its_feature_in_every_block(page: Page, address: str) -> None:
    opened(page, address)
    expect(page.get_by_role("status")).to_have_text("140 features")
    page.get_by_role("searchbox", name="Words, or a number").fill("cub")
    assert cards(page)[:2] == [f"#transformer_blocks.3/{CUBE}", f"#transformer_blocks.7%3Amlp%40wide/{CUBE}"]
    page.get_by_role("searchbox").fill("red cube")
    assert not {f"#transformer_blocks.3/{CUBE}"} & set(cards(page))  # it says cube alone
    page.get_by_role("searchbox").fill("17")
    assert cards(page) == ["#transformer_blocks.3/17", "#transformer_blocks.7%3Amlp%40wide/17"]
    page.get_by_role("searchbox").fill("nothing of the kind")
    expect(page.get_by_role("status")).to_have_text("0 features")


def test_filters_and_orders_narrow_the_list(page: Page, address: str) -> None:
    opened(page, address)
    page.get_by_role("combobox", name="Block").select_option(SITES[1])
    expect(page.get_by_role("status")).to_have_text("70 features")
    page.get_by_role("combobox", name="Stands for").select_option(label="colour: red")
    assert f"#transformer_blocks.7%3Amlp%40wide/{RED}" in cards(page)
    assert f"#transformer_blocks.7%3Amlp%40wide/{CUBE}" not in cards(page)
    page.get_by_role("combobox", name="Stands for").select_option(label="anything")
    page.get_by_role("combobox", name="Fires").select_option(index=1)
    expect(page.get_by_role("status")).to_have_text("0 features")
    page.get_by_role("combobox", name="Fires").select_option(index=2)
    expect(page.get_by_role("status")).to_have_text("70 features")
    page.get_by_role("combobox", name="How often").select_option(index=4)
    expect(page.get_by_role("status")).to_have_text("0 features")
    page.get_by_role("combobox", name="How often").select_option(index=1)
    page.get_by_role("combobox", name="Sorted by").select_option("number")
    assert cards(page)[:3] == [f"#transformer_blocks.7%3Amlp%40wide/{latent}" for latent in range(3)]


def test_the_front_page_shows_one_of_each_name_first(page: Page, address: str) -> None:
    opened(page, address)
    names = page.locator("#cards .card strong").all_inner_texts()
    assert names[0] == "colour: red"
    named = [name for name in names if name != "no word of its own"]
    assert len(set(named[: len(set(named))])) == len(set(named))  # nothing twice before everything once
    expect(page.get_by_text("how often it fires while an image is made")).to_be_visible()


def test_a_feature_tells_the_command_that_steers_by_it(page: Page, address: str) -> None:
    opened(page, f"{address}#transformer_blocks.3/{CUBE}")
    command = page.locator("code.command").first
    expect(command).to_have_text(re.compile(rf"^tide steer .* --latent transformer_blocks\.3/{CUBE}"))


def test_a_long_list_comes_in_pages(page: Page, address: str) -> None:
    opened(page, address)
    seen: list[str] = []
    for number in range(3):
        expect(page.get_by_text(f"Page {number + 1} of 3")).to_be_visible()
        assert len(cards(page)) <= 48
        seen += cards(page)
        if number < 2:
            page.get_by_role("button", name="Next").click()
    assert len(set(seen)) == 140
    expect(page.get_by_role("button", name="Next")).to_be_disabled()
    page.get_by_role("button", name="Previous").click()
    expect(page.get_by_text("Page 2 of 3")).to_be_visible()


def test_a_feature_opens_and_closes_by_keyboard(page: Page, address: str) -> None:
    opened(page, address)
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the features")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("list", name="Features found")).to_be_focused()
    page.keyboard.press("Tab")
    first = cards(page)[0]
    page.keyboard.press("Enter")
    heading = page.get_by_role("heading", level=2)
    expect(heading).to_be_focused()
    assert page.url.endswith(first)
    assert page.title().endswith("· Atlas")
    for name in ("Where it fires most", "What it stands for", "When it fires", "Steer by it", "Points the same way"):
        expect(page.get_by_role("heading", name=name)).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#feature")).to_be_hidden()
    expect(page.locator("#cards .card").first).to_be_focused()


def test_a_feature_shows_what_was_measured(page: Page, address: str) -> None:
    opened(page, f"{address}#transformer_blocks.3/{RED}")
    expect(page.get_by_role("heading", level=2)).to_have_text("colour: red")
    told = page.get_by_role("region", name="What it stands for")
    expect(told.get_by_role("row", name=re.compile("^colour: red 2\u00d7 6 of 6 30 of 60 1.00"))).to_be_visible()
    looks = page.get_by_role("region", name="Images and times")
    assert looks.get_by_role("row").count() == 1 + 4
    assert looks.get_by_role("columnheader").all_inner_texts()[2:] == [
        "t 0.75\u20131.00",
        "t 0.50\u20130.75",
        "t 0.25\u20130.50",
        "t 0.00\u20130.25",
    ]
    expect(page.get_by_role("img", name=re.compile("t 0.00\u20130.25: 25 %"))).to_be_visible()
    sources = page.evaluate(_LAYERS)
    assert {Path(source).suffix for source in sources} == {".webp", ".png"}
    assert page.evaluate(_LOADED, sources)
    page.get_by_role("link", name="Next →").click()
    page.wait_for_url(lambda url: not url.endswith(f"#transformer_blocks.3/{RED}"))
    expect(page.get_by_role("heading", level=2)).to_be_focused()


def test_a_link_to_what_is_not_there_says_so(page: Page, address: str) -> None:
    opened(page, f"{address}#transformer_blocks.3/99")
    expect(page.get_by_text("There is no latent 99: the dictionary has 70.")).to_be_visible()
    for odd in ("#elsewhere/3", "#%E0%A4%A/3", "#transformer_blocks.3/x"):
        page.goto(address + odd)
        expect(page.locator("#list")).to_be_visible()


@pytest.mark.parametrize("place", ["", f"#transformer_blocks.3/{RED}"])
def test_it_is_accessible(page: Page, address: str, place: str) -> None:
    assert_accessible(opened(page, address + place))


@pytest.mark.parametrize("place", ["", f"#transformer_blocks.3/{RED}"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone(page: Page, address: str, place: str, scheme: str) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    opened(page, address + place)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.evaluate(_CONTRAST) >= 4.5


def test_hostile_captions_and_labels_are_only_text(page: Page, tmp_path: Path) -> None:
    captions = HOSTILE * 10
    peaks = torch.stack([torch.tensor([float(number % 4 == which) for number in range(40)]) for which in range(4)])
    labels = [{'<b onclick="x">': [HOSTILE[number % 4]]} for number in range(40)]
    pictures = [Image.new("RGB", (24, 24), "gray")] * 40
    folder, title = tmp_path / "<odd> & 'folder' #1", "</script><h1>x"
    address = write_atlas(folder, captions, 1 + peaks, pictures, labels, title=title).as_uri()
    opened(page, address)
    expect(page.locator("#title")).to_have_text(title)
    for latent, caption in enumerate(HOSTILE):
        page.goto(f"{address}#block/{latent}")
        shown = page.get_by_role("region", name="Images and times").get_by_role("rowheader").first.locator("span")
        expect(shown).to_be_visible()
        shortened = caption if len(caption) <= 400 else caption[:400] + "…"
        assert shown.evaluate("one => one.textContent") == shortened
        assert page.locator("script:not([src]), img, b, iframe").count() == 0
        assert page.evaluate("document.documentElement.scrollWidth") <= 1200
        assert page.title().endswith(f"block / {latent} · Atlas")
    page.goto(f"{address}#")
    page.get_by_role("searchbox").fill("<script>")
    assert len(cards(page)) <= 4
