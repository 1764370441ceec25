"""The report's colours, light and dark; a test measures every contrast that readers rely on.

Source of the hues: Okabe and Ito, Color Universal Design (2008): that colour-blind readers can tell
apart; darkened or lightened for the contrasts of WCAG 2.2. No meaning hangs on colour alone: lines
differ by dashes, marks by shape, and a table stands behind every plot.
"""

LIGHT = {
    "page": "#f6f7f9",
    "card": "#ffffff",
    "ink": "#14181f",
    "muted": "#4d5663",
    "grid": "#e3e7ec",
    "frame": "#c9d0d9",
    "s0": "#0a5cad",
    "s1": "#b0480a",
    "s2": "#00705a",
    "s3": "#9a3d87",
    "s4": "#7a5f00",
    "s5": "#5b6573",
}
DARK = {
    "page": "#0e1217",
    "card": "#171c23",
    "ink": "#eceff4",
    "muted": "#aab4c1",
    "grid": "#2a313b",
    "frame": "#3d4653",
    "s0": "#6db3ff",
    "s1": "#ff9d6b",
    "s2": "#43cfae",
    "s3": "#e89fdb",
    "s4": "#e3bf4f",
    "s5": "#a3aebc",
}
TEXT = ("ink", "muted")
"""Colours of text: at least 4.5 to 1 on a card and on the page."""
MARKS = ("s0", "s1", "s2", "s3", "s4", "s5")
"""Colours of marks and lines: at least 3 to 1 on a card."""


def colour_rules() -> str:
    """Return the colours as CSS: light by default, dark where the reader's system asks for it."""
    series = "".join(f".{name}{{--c:var(--{name})}}" for name in MARKS)
    light, dark = _properties(LIGHT), _properties(DARK)
    return f":root{{{light}}}@media (prefers-color-scheme:dark){{:root{{{dark}}}}}{series}"


def _properties(colours: dict[str, str]) -> str:
    return "".join(f"--{name}:{colour};" for name, colour in colours.items())
