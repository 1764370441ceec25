"""Draw the pictures of the docs from a batch that has run: `python .ci/site/pictures.py BATCH`.

Needs the home of that batch in ROUTOO_HOME, and a Chromium. The plan is what `routoo-producer plan
--show` prints, as SVG; the page is what `routoo-producer serve` shows of the batch, as PNG.
"""

import asyncio
import io
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.browser import browser_tab  # noqa: E402 - the folder above is no package

PRODUCER = Path(sys.executable).with_name("routoo-producer")
WIDTH = 104
_PAGE_WIDTH, _PAGE_HEIGHT = 1120, 1040
_COLOURS = 64
_WEB_FONT = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)
_LINES = 31
"""Of the plan: the rest is more of the same table."""


def main(batch: str) -> int:
    """Write the pictures of a batch into docs/."""
    draw_plan(batch, ROOT / "docs" / "plan.svg")
    asyncio.run(photograph_page(batch, ROOT / "docs" / "page-result.png"))
    return 0


def draw_plan(batch: str, out: Path) -> None:
    """Write what a plan prints as SVG that loads nothing."""
    shown = _run("plan", "--show", batch).rstrip().splitlines()[:_LINES]
    console = Console(record=True, width=WIDTH, file=io.StringIO())
    console.print(Text("$ routoo-producer plan --show first", style="bold"))
    console.print(Text("\n".join(line.rstrip() for line in shown)))
    svg = console.export_svg(title="A plan: what the money will buy, before any of it is spent")
    out.write_text(_WEB_FONT.sub("", svg), encoding="utf-8")


async def photograph_page(batch: str, out: Path) -> None:
    """Write a picture of the page of a batch."""
    server = await asyncio.create_subprocess_exec(
        PRODUCER, "serve", "--port", "0", stdout=asyncio.subprocess.PIPE
    )
    try:
        url = await _login_url(server)
        with tempfile.TemporaryDirectory() as folder:
            async with browser_tab(Path(folder)) as tab:
                size = {"width": _PAGE_WIDTH, "height": _PAGE_HEIGHT, "deviceScaleFactor": 1}
                await tab.call("Emulation.setDeviceMetricsOverride", **size, mobile=False)
                await tab.open(url)
                await tab.until_shown(batch)
                await tab.click(batch)
                await tab.until_shown("Money")
                await asyncio.sleep(1)
                picture = Image.open(io.BytesIO(await tab.screenshot())).convert("RGB")
    finally:
        server.terminate()
        await server.wait()
    upper = picture.crop((0, 0, picture.width, min(picture.height, _PAGE_HEIGHT)))
    upper.quantize(_COLOURS, dither=Image.Dither.NONE).save(out, optimize=True)


async def _login_url(server: asyncio.subprocess.Process) -> str:
    while server.stdout and (line := (await server.stdout.readline()).decode()):
        if found := re.search(r"http://\S+", line):
            return found[0]
    raise SystemExit("the gateway printed no URL")


def _run(*arguments: str) -> str:
    environment = os.environ | {"COLUMNS": str(WIDTH)}
    done = subprocess.run(
        [PRODUCER, *arguments], capture_output=True, text=True, check=True, env=environment
    )
    return done.stdout


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
