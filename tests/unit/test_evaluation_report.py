"""The report's page: colours that can be read, texts that can't break out, parts that may lack."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routoo.evaluation.bootstrap import Interval
from routoo.evaluation.report.page import DARK, LIGHT, MARKS, TEXT, render_page
from routoo.evaluation.report.plot import Axis, element
from routoo.evaluation.report.section import usd_per_thousand, with_interval
from routoo.evaluation.report.sections import history_section
from routoo.evaluation.scorecard import PastRun, Scorecard
from tests.scorecard_factory import make_scorecard


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.texts: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def _contrast(one: str, other: str) -> float:
    """Return the contrast ratio of two colours (WCAG 2.2, 1 to 21)."""
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    channels = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [_linear(channel) for channel in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _linear(channel: float) -> float:
    # WCAG's own threshold and constants for sRGB.
    return channel / 12.92 if channel <= 0.04045 else ((channel + 0.055) / 1.055) ** 2.4


def _read(page: str) -> _Reader:
    reader = _Reader()
    reader.feed(page)
    reader.close()
    return reader


@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
def test_text_and_marks_stand_out_from_what_is_behind_them(colours: dict[str, str]) -> None:
    for name in TEXT:
        assert _contrast(colours[name], colours["card"]) >= 4.5, name
        assert _contrast(colours[name], colours["page"]) >= 4.5, name
    for name in MARKS:
        assert _contrast(colours[name], colours["card"]) >= 3, name


def test_contrast_is_wcags() -> None:
    assert _contrast("#000000", "#ffffff") == pytest.approx(21)
    assert _contrast("#777777", "#ffffff") == pytest.approx(4.478, abs=1e-3)


def test_a_plot_has_its_figures_in_a_table_behind_it() -> None:
    page = render_page(make_scorecard())
    for section in re.findall(r"<section>.*?</section>", page, re.DOTALL):
        assert "<table" in section, section[:200]
    assert page.count("<svg") > 6


def test_a_budget_stands_beside_the_best_single_model_of_its_cost() -> None:
    card = make_scorecard()
    assert card.pool is not None
    texts = _read(render_page(card)).texts
    assert "Beside the best single model" in texts
    assert {one.best_single for one in card.pool.budgets if one.best_single} <= set(texts)


def test_the_page_loads_nothing_and_runs_nothing() -> None:
    page = render_page(make_scorecard())
    assert not re.search(r"<script|<link|<img|<iframe|url\(|@import|\ssrc=|\shref=", page)


def test_names_from_data_stay_text() -> None:
    hostile = '</style><script>alert("x")</script>&amp;'
    read = _read(render_page(make_scorecard(model=hostile)))
    assert "script" not in read.tags
    assert hostile in read.texts


def test_a_run_that_measured_little_is_still_a_page() -> None:
    page = render_page(Scorecard("A run", {"items": "0"}, ()))
    assert "<h1>A run</h1>" in page
    assert "<section" not in page


def test_the_same_scorecard_gives_the_same_bytes() -> None:
    anew = make_scorecard.__wrapped__()
    assert render_page(anew) == render_page(make_scorecard())


@given(st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Z")), max_size=40))
def test_any_text_is_read_back_as_it_was_written(text: str) -> None:
    read = _read(element("p", text, title=text))
    assert "".join(read.texts).strip("\n") == text.strip("\n")
    assert read.attributes == [("title", text)]


@given(
    low=st.floats(1e-9, 1e6), ratio=st.floats(1.01, 1e6), log=st.booleans(), most=st.integers(2, 9)
)
def test_ticks_rise_and_lie_on_the_axis(low: float, ratio: float, log: bool, most: int) -> None:
    axis = Axis(low, low * ratio, 40, 300, log=log)
    ticks = axis.ticks(most)
    assert len(ticks) <= most + 1
    assert np.all(np.diff(ticks) > 0)
    assert all(39.9 <= axis(tick) <= 300.1 for tick in ticks)


def test_figures_are_written_with_the_digits_that_count() -> None:
    assert [usd_per_thousand(value) for value in (0.0, 0.000411, 0.0123, 1.5, float("nan"))] == [
        "0",
        "0.411",
        "12.3",
        "1,500",
        "\u2013",
    ]
    reached = Interval(0.5, 0.4, float("inf"))
    assert with_interval(reached, 1) == "0.5 [0.4 to out of reach]"


@pytest.mark.parametrize("change", [0.0, 0.0004, 0.05, 0.25])
def test_plots_over_time_have_ticks_that_differ_and_are_written_alike(change: float) -> None:
    runs = [
        PastRun(day, Interval(value, value, value), Interval(value / 500, 1e-3, 2e-3), 0.1 * value)
        for day, value in (("2026-11-01", 0.7), ("2026-11-02", 0.7 + change))
    ]
    pictures = [one.svg for one in history_section(tuple(runs)).pictures]
    assert len(pictures) == 3
    for picture in pictures:
        texts = re.findall(r"<text[^>]*>(.*?)</text>", picture)
        ticks = texts[: texts.index("2026-11-01")]
        assert len(ticks) == len(set(ticks)) >= 2
        assert len({len(tick.partition(".")[2]) for tick in ticks}) == 1
