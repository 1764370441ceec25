"""The page as people see it: on a phone or a desk, light or dark, by keyboard, without scripts."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from itertools import product
from pathlib import Path
from uuid import UUID

import pytest

from routoo.domain.caller import Scope
from routoo.domain.job import Stage
from routoo.settings import REPOSITORY
from routoo.store import checkpoints, results
from routoo.store.database import Database
from routoo.training.promote import register_folder
from tests.batch_factory import claim, result, score, select, submit
from tests.browser import CHROMIUM, Tab, browser_tab
from tests.gateway_server import RunningGateway, running_gateway

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: install Debian's chromium"),
]

# WCAG 2.1, 1.4.3: 4.5 to 1, and 3 to 1 for large text. What lies behind a text is blended from
# the backgrounds of its ancestors.
_FAINT = """(() => {
  const read = text => {
    const [r, g, b, a] = text.match(/[\\d.]+/g).map(Number);
    return [r, g, b, a ?? 1];
  };
  const over = (top, below) => [0, 1, 2].map(n => top[n] * top[3] + below[n] * (1 - top[3]));
  const luminance = rgb => rgb.slice(0, 3).map(one => one / 255)
    .map(one => one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4)
    .reduce((sum, one, n) => sum + one * [0.2126, 0.7152, 0.0722][n], 0);
  const behind = part => {
    const own = part ? read(getComputedStyle(part).backgroundColor) : [255, 255, 255, 1];
    return own[3] === 1 ? own.slice(0, 3) : over(own, behind(part.parentElement));
  };
  const found = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim(), part = walker.currentNode.parentElement;
    if (!text || part.closest('script') || !part.checkVisibility()) continue;
    const style = getComputedStyle(part), below = behind(part);
    const colour = part.closest('svg') ? style.fill : style.color;
    const [low, high] = [luminance(over(read(colour), below)), luminance(below)]
      .sort((a, b) => a - b);
    const size = parseFloat(style.fontSize), bold = Number(style.fontWeight) >= 700;
    const least = size >= 24 || (bold && size >= 18.66) ? 3 : 4.5;
    const ratio = (high + 0.05) / (low + 0.05);
    if (ratio < least) found.push([text, ratio]);
  }
  return found;
})()"""
_FOCUSED = "document.activeElement.innerText.trim()"


@pytest.fixture
def gateway(database_url: str, tmp_path: Path) -> Iterator[RunningGateway]:
    with running_gateway(database_url, tmp_path) as found:
        yield found


@pytest.fixture
async def tab(gateway: RunningGateway, tmp_path: Path) -> AsyncIterator[Tab]:
    """A tab of somebody who was let in for everything."""
    key = await asyncio.to_thread(gateway.add_key, "admin", [Scope.ADMIN])
    async with browser_tab(tmp_path / "profile") as tab:
        await tab.open(f"{gateway.url}/login")
        await tab.evaluate(f"document.querySelector('[name=key]').value = {json.dumps(key)}")
        await tab.evaluate("document.querySelector('form[action=\"/login\"] button').click()")
        await tab.until("document.title.startsWith('Batches')")
        yield tab


async def half_answered(db: Database) -> UUID:
    """Submit a batch of 4 jobs, the first two of which are answered."""
    batch_id = await submit(db, 4, shard_size=4, budget_usd="1")
    await score(db, batch_id)
    await select(db, batch_id)
    lease = await claim(db, batch_id, Stage.DISPATCH)
    async with db.transaction() as conn:
        await results.save(conn, lease, [result(0), result(1)])
    return batch_id


async def press(tab: Tab, key: str) -> None:
    text = {"Enter": "\r"}.get(key)
    code = {"Tab": 9, "Enter": 13, "Escape": 27}[key]
    pressed = {"key": key, "code": key, "windowsVirtualKeyCode": code}
    down = {**pressed, "text": text} if text else pressed
    await tab.call("Input.dispatchKeyEvent", type="keyDown", **down)
    await tab.call("Input.dispatchKeyEvent", type="keyUp", **pressed)


async def test_every_page_is_read_well_on_a_phone_and_a_desk_light_and_dark(
    db: Database, gateway: RunningGateway, tab: Tab
) -> None:
    batch_id = await half_answered(db)
    async with db.transaction() as conn:
        await register_folder(conn, REPOSITORY / "examples" / "checkpoint")
    ends = ("", "/jobs", "/jobs/0")
    pages = [f"/batches/{batch_id}{end}" for end in ends]
    pages += ["/batches", "/submit", "/evaluations", "/checkpoints", "/endpoints", "/batches/none"]
    for page in pages:
        await tab.open(f"{gateway.url}{page}")
        for width, scheme in product((390, 1280), ("light", "dark")):
            await look(tab, width, scheme)
            seen = (page, width, scheme)
            assert (seen, await tab.evaluate(_FAINT)) == (seen, [])
            assert await tab.evaluate("document.documentElement.scrollWidth") <= width, seen


async def look(tab: Tab, width: int, scheme: str) -> None:
    """Look at the open page on another screen: the server sends all screens the same."""
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    await tab.call("Emulation.setDeviceMetricsOverride", **size)
    wanted = [{"name": "prefers-color-scheme", "value": scheme}]
    await tab.call("Emulation.setEmulatedMedia", features=wanted)


async def test_a_batch_is_read_and_paused_without_scripts(
    db: Database, gateway: RunningGateway, tab: Tab
) -> None:
    batch_id = await half_answered(db)
    await tab.call("Emulation.setScriptExecutionDisabled", value=True)
    await tab.open(f"{gateway.url}/batches/{batch_id}")
    await tab.until_shown("2 of 4")
    assert await tab.evaluate("typeof htmx") == "undefined"
    refresh = "document.querySelector('noscript meta[http-equiv=refresh]') !== null"
    assert await tab.evaluate(refresh)
    await tab.click("Pause")
    await tab.until_shown("Paused. Calls in flight end and are kept.")
    await tab.click("All jobs")
    await tab.click("job-0")
    await tab.until_shown("Why this model")


async def test_a_menu_is_opened_and_closed_by_the_keyboard(
    db: Database, gateway: RunningGateway, tab: Tab
) -> None:
    await tab.open(f"{gateway.url}/batches/{await half_answered(db)}")
    await press(tab, "Tab")
    assert await tab.evaluate(_FOCUSED) == "Skip to content"
    await press(tab, "Enter")
    assert await tab.evaluate("document.activeElement.id") == "main"
    reached = []
    while not reached or reached[-1] != "Budget":
        await press(tab, "Tab")
        reached.append(await tab.evaluate(_FOCUSED))
        assert await tab.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
        assert len(reached) < 20, reached
    assert "Pause" in reached
    await press(tab, "Enter")
    await tab.until_shown("Set the budget")
    await press(tab, "Tab")
    assert await tab.evaluate("document.activeElement.name") == "budget_usd"
    await press(tab, "Escape")
    await tab.until_gone("Set the budget")
    assert await tab.evaluate(_FOCUSED) == "Budget"


async def test_a_checkpoint_is_promoted_by_clicking(
    db: Database, gateway: RunningGateway, tab: Tab
) -> None:
    async with db.transaction() as conn:
        record = await register_folder(conn, REPOSITORY / "examples" / "checkpoint")
    await tab.open(f"{gateway.url}/checkpoints")
    await tab.click("Promote")
    await tab.until_shown("A roll-back undoes that.")
    await tab.evaluate("document.querySelector('#why-1').value = 'better on math'")
    await tab.evaluate(
        "document.querySelector('form[action=\"/checkpoints/promote\"] button').click()"
    )
    await tab.until_shown("The checkpoint is used from the next batch on.")
    await tab.until_shown("better on math")
    async with db.transaction() as conn:
        used = await checkpoints.promoted(conn)
    assert used is not None
    assert used.id == record.id
    assert tab.complaints == []
