"""The page in a real browser: draw, search, filter, add, slide, see; by keyboard, on a phone, with hostile words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.explore.accessible import assert_accessible
from tests.explore.conftest import SITES
from tide_lightning.explore.play.server import PlayServer
from tide_lightning.explore.play.studio import Busy

HOSTILE = [
    "<script>document.title='hit'</script><img src=x onerror=\"document.title='hit'\">",
    '" onload="document.title=\'hit\'" x="\'`',
    "\u202eright to left \u05e9\u05dc\u05d5\u05dd",
    "long " * 2000,
]


def ready(page: Page, server: PlayServer) -> None:
    page.goto(server.url)
    expect(page.locator("#run")).to_have_text(re.compile("Run: "))
    expect(page.get_by_role("status").first).to_have_text(re.compile("^Drawn"))  # it opens with an image


def draw(page: Page, server: PlayServer, prompt: str = "a red cube") -> None:
    ready(page, server)
    page.get_by_label("Prompt", exact=True).fill(prompt)
    page.get_by_role("button", name="Draw", exact=True).click()
    expect(page.get_by_role("status").first).to_have_text(re.compile("^Drawn"))


def source(page: Page, name: str) -> str:
    return str(page.locator(f"#{name}").get_attribute("src"))


def test_draw_filter_add_slide_and_window(page: Page, server: PlayServer) -> None:
    draw(page, server)
    latents = page.get_by_role("list", name="Latents", exact=True).get_by_role("listitem")
    everything = latents.count()
    assert everything > 10
    page.get_by_label("Among those listed").fill(SITES[1])
    assert 0 < latents.count() < everything
    expect(latents.first).to_contain_text(SITES[1])
    latents.first.get_by_role("button", name=re.compile("^Add ")).click()
    expect(page.get_by_role("status").first).to_have_text(re.compile("^Steered"))
    expect(page.locator("#changed")).to_contain_text(re.compile("Judges read .*as before:.*Pixels moved by"))
    expect(page.locator("#command")).to_have_text(re.compile(rf"^tide steer .*--latent {re.escape(SITES[1])}"))
    expect(page.locator("#after")).to_have_attribute("alt", re.compile(re.escape(SITES[1])))
    assert source(page, "before") != source(page, "after")
    after = source(page, "after")
    slider = page.get_by_role("slider", name=re.compile("^Amount of"))
    slider.focus()
    slider.press("Home")
    expect(page.locator("#after")).not_to_have_attribute("src", after)
    operation = page.get_by_role("combobox", name=re.compile("^What to do with"))
    operation.select_option("ablate")
    expect(slider).to_be_hidden()
    operation.select_option("scale")
    page.get_by_label("from t").fill("0.8")  # one of the two steps is left
    expect(page.locator("output[for=high]")).to_have_text("0.8")
    page.get_by_role("button", name=re.compile("^Remove " + re.escape(SITES[1]))).click()
    expect(page.locator("#no-edits")).to_be_visible()


def test_a_page_waits_while_something_else_is_made(
    page: Page, server: PlayServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw, refusals = server.told["/api/draw"], iter(range(3))

    def busy_at_first(request: Mapping[str, Any]) -> Mapping[str, Any]:
        if next(refusals, None) is not None:
            raise Busy
        return draw(request)

    monkeypatch.setitem(server.told, "/api/draw", busy_at_first)
    ready(page, server)
    assert next(refusals, None) is None
    expect(page.locator("#error")).to_have_text("")


def test_search_by_words_finds_latents_to_add(page: Page, server: PlayServer) -> None:
    ready(page, server)
    page.get_by_label("By what they make").fill("red")
    page.get_by_role("button", name="Search").click()
    expect(page.locator("#listed")).to_have_text(re.compile("“red”"), timeout=60_000)
    page.get_by_role("button", name=re.compile("^Add ")).first.click()
    expect(page.get_by_role("slider", name=re.compile("^Amount of"))).to_be_visible()
    page.get_by_role("button", name="Steer", exact=True).click()
    expect(page.get_by_role("status").first).to_have_text(re.compile("^Steered"))


def test_what_cannot_be_is_not_sent_and_nothing_to_do_is_told(page: Page, server: PlayServer) -> None:
    ready(page, server)
    page.get_by_role("button", name="Steer", exact=True).click()
    expect(page.get_by_role("status").first).to_have_text("Nothing to steer: add a latent first.")
    page.get_by_label("Steps", exact=True).fill("0")
    page.get_by_role("button", name="Draw", exact=True).click()  # the browser itself refuses
    assert page.locator("#steps:invalid").count() == 1
    page.get_by_label("Steps", exact=True).fill("2")
    page.get_by_role("button", name="Draw", exact=True).click()
    expect(page.get_by_role("status").first).to_have_text(re.compile("^Drawn"))


def test_by_keyboard_alone(page: Page, server: PlayServer) -> None:
    ready(page, server)
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name=re.compile("Skip"))).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.locator("#prompt")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("status").first).to_have_text(re.compile("^Drawn"))
    page.locator("#latents button").first.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("slider", name=re.compile("^Amount of"))).to_be_focused()
    expect(page.get_by_role("status").first).to_have_text(re.compile("^Steered"))


def test_it_is_accessible(page: Page, server: PlayServer) -> None:
    draw(page, server)
    page.locator("#latents button").first.click()
    expect(page.get_by_role("status").first).to_have_text(re.compile("^Steered"))
    assert_accessible(page)


def test_everything_has_a_name(page: Page, server: PlayServer) -> None:
    draw(page, server)
    page.locator("#latents button").first.click()
    nameless = page.evaluate(
        """() => [...document.querySelectorAll('input, select, button, img, progress')].filter((one) =>
            !(one.ariaLabel || one.alt || one.labels?.length || one.textContent.trim())).map((one) => one.outerHTML)"""
    )
    assert nameless == []
    assert page.locator("html").get_attribute("lang") == "en"
    headings = page.locator("h1, h2").all_text_contents()
    assert headings[0] == "tide play"


@pytest.mark.parametrize("width", [360, 1200])
def test_nothing_runs_over_the_edge(page: Page, server: PlayServer, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 740})
    draw(page, server, "x" * 3000)
    page.locator("#latents button").first.click()
    expect(page.get_by_role("status").first).to_have_text(re.compile("^Steered"))
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("prompt", HOSTILE, ids=["markup", "quotes", "right-to-left", "long"])
def test_hostile_prompts_stay_words(page: Page, server: PlayServer, prompt: str) -> None:
    draw(page, server, prompt)
    expect(page.locator("#before")).to_have_attribute("alt", f"Image of: {prompt}")
    page.get_by_label("Among those listed").fill(prompt[:200])
    assert page.title() == "tide play"
    assert page.locator("main img").count() == 3
    assert page.locator("script").count() == 1


def test_an_address_is_kept_and_recalled(page: Page, server: PlayServer) -> None:
    page.goto(f"{server.url}#prompt=a+red+cube&seed=5&latent={SITES[0]}/3:7.5&latent=nowhere/1:2&latent=<b>")
    expect(page.get_by_role("status").first).to_have_text(re.compile("^Steered"))
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("a red cube")
    expect(page.get_by_label("Seed", exact=True)).to_have_value("5")
    expect(page.get_by_role("slider", name=re.compile("^Amount of"))).to_have_count(1)
    expect(page.get_by_text(re.compile(r"^1\W is "))).to_be_visible()  # amounts turn into times of that
    assert page.evaluate("location.hash").endswith("latent=transformer_blocks.3%2F3%3A7.50")
