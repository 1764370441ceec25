"""Draws plots as SVG: axes, lines, marks, and labels that don't overlap."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

Box = tuple[float, float, float, float]
"""Left, top, right and bottom, in pixels."""
Point = tuple[float, float]
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 12, 42
"""Margins of the plotted area in pixels."""
CHARACTER_PX, LINE_PX = 7.2, 14
BOLD_PX = 7.8
_TICK_PX = 76
_TINY = 1e-12


def element(name: str, *children: str, **attributes: object) -> Markup:
    """Return an SVG or HTML element; texts and attributes are escaped, markup is not.

    Args:
        name: Of the element.
        children: Elements and texts, in order.
        attributes: `class_` stands for class, `stroke_width` for stroke-width.
    """
    written = Markup().join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), value)
        for key, value in attributes.items()
    )
    return Markup("<{0}{1}>{2}</{0}>").format(name, written, Markup().join(children))


@dataclass(frozen=True, slots=True)
class Axis:
    """Turns figures into pixels along one direction, and finds the figures worth a tick."""

    low: float
    high: float
    start_px: float
    """Pixel of the low end; may be the larger one."""
    end_px: float
    log: bool = False
    """Whether equal distances are equal ratios; both ends must be above 0 then."""

    def __call__(self, value: float) -> float:
        """Return a figure's pixel."""
        low, high, at = (self._position(part) for part in (self.low, self.high, value))
        return self.start_px + (at - low) / max(high - low, _TINY) * (self.end_px - self.start_px)

    def ticks(self, most: int) -> list[float]:
        """Return round figures on the axis, about so many."""
        found = self._log_ticks(most) if self.log else _linear_ticks(self.low, self.high, most)
        return [tick for tick in found if self.low * (1 - 1e-9) <= tick <= self.high * (1 + 1e-9)]

    def _log_ticks(self, most: int) -> list[float]:
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        for steps in ((1, 2, 5), (1, 3), (1,)):
            every = [step * 10.0**power for power in range(first, last + 1) for step in steps]
            shown = [tick for tick in every if self.low <= tick <= self.high]
            if len(shown) <= most:
                return shown
        return shown[:: math.ceil(len(shown) / most)]

    def _position(self, value: float) -> float:
        return math.log(value) if self.log else value


@dataclass(slots=True)
class Plot:
    """One picture of a plot, at one width."""

    width: int
    """In pixels, as are all lengths here."""
    height: int
    x: Axis
    y: Axis
    description: str
    """What the picture shows, for those who can't see it."""
    marks: list[Markup] = field(default_factory=list)
    taken: list[Box] = field(default_factory=list)
    """Where no further label may stand."""

    def draw_axes(
        self,
        x_name: str,
        y_name: str,
        x_text: Callable[[float], str],
        y_text: Callable[[float], str],
    ) -> None:
        """Draw the frame, ticks and names of both axes."""
        bottom, left = self.y.start_px, self.x.start_px
        for tick in self.y.ticks(6):
            at = self.y(tick)
            self.line((left, at), (self.x.end_px, at), "rule")
            self.text((left - 6, at + 4), y_text(tick), "end")
        for tick in self.x.ticks(max(3, self.width // _TICK_PX)):
            at = self.x(tick)
            self.line((at, bottom), (at, bottom + 4), "axis")
            self.text((at, bottom + 17), x_text(tick), "middle")
        self.line((left, bottom), (self.x.end_px, bottom), "axis")
        self.text(((left + self.x.end_px) / 2, self.height - 4), x_name, "middle")
        self.text((left, TOP - 1), y_name, "start")

    def curve(self, points: Sequence[Point], kind: str) -> None:
        """Draw a line through points given in the axes' figures."""
        self._add("polyline", points=self._pixels(points), class_=f"line {kind}")

    def band(self, low: Sequence[Point], high: Sequence[Point], kind: str) -> None:
        """Fill between two lines given in the axes' figures."""
        around = self._pixels([*low, *reversed(high)])
        self._add("polygon", points=around, class_=f"band {kind}")

    def dot(self, point: Point, kind: str, title: str, radius: float = 5) -> None:
        """Draw a round mark that shows its title when it is pointed at."""
        left, top = self.x(point[0]), self.y(point[1])
        self._add(
            "circle", element("title", title), cx=_px(left), cy=_px(top), r=radius, class_=kind
        )
        self.taken.append((left - radius, top - radius, left + radius, top + radius))

    def diamond(self, point: Point, kind: str, title: str) -> None:
        """Draw a mark with corners, for the one point that matters most."""
        left, top, size = self.x(point[0]), self.y(point[1]), 8
        self.rhomb((left, top), size, kind, element("title", title))
        self.taken.append((left - size, top - size, left + size, top + size))

    def rhomb(self, middle: Point, size: float, kind: str, *children: str) -> None:
        """Draw a square on its corner around a point given in pixels."""
        left, top = middle
        corners = [(left, top - size), (left + size, top), (left, top + size), (left - size, top)]
        points = " ".join(f"{_px(at)},{_px(down)}" for at, down in corners)
        self._add("polygon", *children, points=points, class_=kind)

    def bar(self, top: float, length: float, height: float, **attributes: object) -> None:
        """Draw a bar from the left edge; the lengths are in pixels."""
        size = {"x": 0, "y": top, "width": _px(length), "height": height, "rx": 2}
        self._add("rect", class_="bar s0", **attributes, **size)

    def whisker(self, x: float, low: float, high: float, kind: str) -> None:
        """Draw an interval upright, in the axes' figures."""
        at = self.x(x)
        self.line((at, self.y(low)), (at, self.y(high)), f"whisker {kind}")

    def label(self, point: Point, text: str, kind: str = "") -> bool:
        """Write a label beside a point where it covers no other; return whether there was room."""
        left, top, width = self.x(point[0]), self.y(point[1]), len(text) * CHARACTER_PX
        positions = (
            (left + 9, top + 4, "start"),
            (left - 9, top + 4, "end"),
            (left, top - 10, "middle"),
            (left, top + 20, "middle"),
            (left + 6, top - 9, "start"),
            (left - 6, top + 18, "end"),
        )
        for at, base, anchor in positions:
            first = at - width * {"start": 0.0, "middle": 0.5, "end": 1.0}[anchor]
            box = (first - 2, base - LINE_PX + 3, first + width + 2, base + 4)
            if self._is_free(box):
                self.taken.append(box)
                self.text((at, base), text, anchor, kind)
                return True
        return False

    def text(self, at: Point, text: str, anchor: str, kind: str = "") -> None:
        """Write text at a point given in pixels."""
        self._add("text", text, text_anchor=anchor, class_=kind, x=_px(at[0]), y=_px(at[1]))

    def line(self, start: Point, end: Point, kind: str) -> None:
        """Draw a straight line between points given in pixels."""
        ends = {"x1": _px(start[0]), "y1": _px(start[1]), "x2": _px(end[0]), "y2": _px(end[1])}
        self._add("line", class_=kind, **ends)

    def svg(self, kind: str = "") -> Markup:
        """Return what was drawn; `kind` is the picture's CSS class."""
        view = {"viewBox": f"0 0 {self.width} {self.height}"}
        return element(
            "svg", *self.marks, role="img", aria_label=self.description, class_=kind, **view
        )

    def _add(self, name: str, *children: str, **attributes: object) -> None:
        self.marks.append(element(name, *children, **attributes))

    def _is_free(self, box: Box) -> bool:
        inside = box[0] >= self.x.start_px and box[2] <= self.width and box[1] >= 0
        overlaps = any(_overlap(box, one) for one in self.taken)
        return inside and box[3] <= self.y.start_px and not overlaps

    def _pixels(self, points: Sequence[Point]) -> str:
        return " ".join(f"{_px(self.x(x))},{_px(self.y(y))}" for x, y in points)


def plot_area(
    width: int, height: int, x: tuple[float, float], y: tuple[float, float], *, log: bool = False
) -> tuple[Axis, Axis]:
    """Return both axes of a picture of this size, the first one logarithmic if asked for."""
    return (
        Axis(x[0], x[1], LEFT, width - RIGHT, log=log),
        Axis(y[0], y[1], height - BOTTOM, TOP + 8),
    )


def shortened(text: str, width_px: float) -> str:
    """Return as much of a name as fits; the table behind the plot has all of it."""
    most = max(int(width_px / BOLD_PX), 2)
    return text if len(text) <= most else f"{text[: most - 1]}\N{HORIZONTAL ELLIPSIS}"


def _linear_ticks(low: float, high: float, most: int) -> list[float]:
    rough = max(high - low, _TINY) / max(most, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(step * power for step in (1, 2, 5, 10) if step * power >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]


def _overlap(one: Box, other: Box) -> bool:
    apart = one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
    return not apart


def _px(value: float) -> str:
    return f"{value:.1f}"
