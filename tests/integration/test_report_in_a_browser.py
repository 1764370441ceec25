"""The report as a reader sees it: in a real browser, on a phone and on a desk, light and dark."""

from pathlib import Path

import pytest

from routoo.evaluation.report.page import DARK, LIGHT, render_page
from tests.browser import CHROMIUM, Tab, browser_tab
from tests.scorecard_factory import make_scorecard

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium here: install Debian's package chromium"
)

_CUT_OFF = """[...document.querySelectorAll('svg')]
  .filter(svg => svg.checkVisibility()).flatMap(svg => {
  const edge = svg.getBoundingClientRect();
  return [...svg.querySelectorAll('text')].filter(text => {
    const box = text.getBoundingClientRect();
    return box.left < edge.left - 1 || box.right > edge.right + 1 || box.bottom > edge.bottom + 1;
  }).map(text => text.textContent);
})"""
_SMALL = """[...document.querySelectorAll('svg text')].filter(text => text.checkVisibility())
  .map(text => text.getBoundingClientRect().height).filter(height => height < 10).length"""


async def test_the_report_reads_well_on_a_phone_and_on_a_desk_light_and_dark(
    tmp_path: Path,
) -> None:
    page = tmp_path / "report.html"
    page.write_text(render_page(make_scorecard()), encoding="utf-8")
    async with browser_tab(tmp_path / "profile") as tab:
        for width in (360, 1200):
            for scheme, colours in (("light", LIGHT), ("dark", DARK)):
                await tab.show(page, width, scheme)
                await _check(tab, width, colours)
        assert tab.complaints == []


async def _check(tab: Tab, width: int, colours: dict[str, str]) -> None:
    assert await tab.evaluate("document.documentElement.scrollWidth") <= width
    assert await tab.evaluate("getComputedStyle(document.body).backgroundColor") == _rgb(
        colours["page"]
    )
    assert await tab.evaluate("getComputedStyle(document.body).color") == _rgb(colours["ink"])
    assert await tab.evaluate(_CUT_OFF) == []
    assert await tab.evaluate(_SMALL) == 0
    opened = "document.querySelector('details').open = true, document.documentElement.scrollWidth"
    assert await tab.evaluate(opened) <= width


def _rgb(colour: str) -> str:
    channels = (int(colour[start : start + 2], 16) for start in (1, 3, 5))
    return f"rgb({', '.join(map(str, channels))})"
