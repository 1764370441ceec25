"""A headless Chromium, driven over its DevTools protocol by aiohttp."""

import asyncio
import base64
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
_PATIENCE_S = 120.0
_FIND = """text => [...document.querySelectorAll('a, button, summary')].find(
  one => one.innerText.trim() === text && one.checkVisibility() && !one.disabled)"""
_FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0")


@dataclass(slots=True)
class Tab:
    """One open page."""

    socket: aiohttp.ClientWebSocketResponse
    complaints: list[str] = field(default_factory=list)
    """Errors and warnings of the console, and requests to elsewhere."""
    sent: int = 0
    origin: str = "file:"
    """How the addresses begin that the page may ask for."""

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Call one method and return its result, keeping what the page complains of meanwhile."""
        self.sent += 1
        await self.socket.send_json({"id": self.sent, "method": method, "params": params})
        while True:
            message = await self.socket.receive_json()
            if message.get("id") == self.sent:
                assert "error" not in message, message
                return dict(message["result"])
            self._note(message)

    async def show(self, path: Path, width: int, scheme: str) -> None:
        """Open a file as a reader with this width and colour scheme would."""
        phone = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
        await self.call("Emulation.setDeviceMetricsOverride", **phone)
        wanted = [{"name": "prefers-color-scheme", "value": scheme}]
        await self.call("Emulation.setEmulatedMedia", features=wanted)
        await self.call("Page.navigate", url=path.as_uri())
        while await self.evaluate("document.readyState") != "complete":
            await asyncio.sleep(0.02)

    async def open(self, url: str) -> None:
        """Open a page of a server, which may ask for nothing from elsewhere."""
        self.origin = "/".join(url.split("/")[:3])
        await self.call("Page.navigate", url=url)
        await self.until("document.readyState === 'complete' && location.origin !== 'null'")

    async def click(self, text: str) -> None:
        """Click the link, button or menu that has this text, with the mouse, once it is shown.

        Of a text of several lines, the first is clicked.
        """
        found = f"({_FIND})({json.dumps(text)}) !== undefined"
        await self.until(f"document.readyState === 'complete' && {found}", text)
        at = await self.evaluate(
            f"(box => ({{x: box.x + box.width / 2, y: box.y + box.height / 2}}))"
            f"((one => (one.scrollIntoView({{block: 'center'}}), one.getClientRects()[0]))"
            f"(({_FIND})({json.dumps(text)})))"
        )
        button = {"button": "left", "clickCount": 1, **at}
        await self.call("Input.dispatchMouseEvent", type="mousePressed", **button)
        await self.call("Input.dispatchMouseEvent", type="mouseReleased", **button)

    async def choose_file(self, selector: str, path: Path) -> None:
        """Choose a file in a form's field."""
        field = f"document.querySelector({json.dumps(selector)})"
        await self.until(f"document.readyState === 'complete' && {field} !== null", selector)
        found = await self.call("Runtime.evaluate", expression=field)
        object_id = found["result"]["objectId"]
        await self.call("DOM.setFileInputFiles", files=[str(path)], objectId=object_id)

    async def until_shown(self, text: str) -> None:
        """Wait until the page shows a text."""
        await self.until(f"document.body.innerText.includes({json.dumps(text)})", text)

    async def until_gone(self, text: str) -> None:
        """Wait until the page shows a text no more."""
        await self.until(f"!document.body.innerText.includes({json.dumps(text)})", text)

    async def until(self, expression: str, what: str = "") -> None:
        """Wait until an expression is true; meanwhile the page may be loaded anew."""
        try:
            async with asyncio.timeout(_PATIENCE_S):
                while not await self._is_true(expression):
                    await asyncio.sleep(0.1)
        except TimeoutError:
            shown = await self.evaluate("document.body.innerText")
            raise AssertionError(f"{what or expression} did not come: {shown}") from None

    async def _is_true(self, expression: str) -> bool:
        answer = await self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        return "exceptionDetails" not in answer and bool(answer["result"].get("value"))

    async def evaluate(self, expression: str) -> Any:
        """Return an expression's value in the page."""
        answer = await self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        return answer["result"].get("value")

    async def screenshot(self) -> bytes:
        """Return the whole page as a PNG picture, for a person to look at."""
        answer = await self.call("Page.captureScreenshot", captureBeyondViewport=True)
        return base64.b64decode(answer["data"])

    def _note(self, message: dict[str, Any]) -> None:
        params = message.get("params", {})
        if message.get("method") == "Log.entryAdded":
            self.complaints.append(params["entry"]["text"])
        elif message.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(str(params["exceptionDetails"]))
        elif message.get("method") == "Network.requestWillBeSent":
            url = params["request"]["url"]
            if not url.startswith((self.origin, "data:")):
                self.complaints.append(url)


@asynccontextmanager
async def browser_tab(folder: Path) -> AsyncIterator[Tab]:
    """Start a browser with an empty profile in a folder, and open a tab."""
    assert CHROMIUM is not None
    process = await asyncio.create_subprocess_exec(
        CHROMIUM,
        *_FLAGS,
        f"--user-data-dir={folder}",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        port = await _port(folder / "DevToolsActivePort")
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
            async with session.put("/json/new?about:blank") as answer:
                url = (await answer.json())["webSocketDebuggerUrl"]
            async with session.ws_connect(url, max_msg_size=0) as socket:
                tab = Tab(socket)
                for domain in ("Page", "Log", "Network", "Runtime"):
                    await tab.call(f"{domain}.enable")
                yield tab
    finally:
        process.kill()
        await process.wait()


async def _port(path: Path) -> int:
    async with asyncio.timeout(60):
        while not (words := _words(path)):
            await asyncio.sleep(0.05)
    return int(words[0])


def _words(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []
