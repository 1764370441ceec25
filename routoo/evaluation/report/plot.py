"""A plot being drawn: axes, lines, marks, and labels that keep out of each other's way."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from xml.etree.ElementTree import Element

from routoo.evaluation.report.scale import Scale
from routoo.evaluation.report.tags import tag

Box = tuple[float, float, float, float]
"""Left, top, right and bottom, in pixels."""
Corner = tuple[float, float]
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 12, 42
"""Margins of the plotted area in pixels."""
CHARACTER_PX, LINE_PX = 7.2, 14
BOLD_PX = 7.8
_TICK_PX = 76


@dataclass(slots=True)
class Canvas:
    """One picture of a plot, at one width."""

    width: int
    """In pixels, as are all lengths here."""
    height: int
    x: Scale
    y: Scale
    label: str
    """What the picture shows, for those who can't see it."""
    marks: list[Element] = field(default_factory=list)
    taken: list[Box] = field(default_factory=list)
    """Where no further label may stand."""

    def axes(
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
            self.line_between((left, at), (self.x.end_px, at), "rule")
            self.text((left - 6, at + 4), y_text(tick), "end")
        for tick in self.x.ticks(max(3, self.width // _TICK_PX)):
            at = self.x(tick)
            self.line_between((at, bottom), (at, bottom + 4), "axis")
            self.text((at, bottom + 17), x_text(tick), "middle")
        self.line_between((left, bottom), (self.x.end_px, bottom), "axis")
        self.text(((left + self.x.end_px) / 2, self.height - 4), x_name, "middle")
        self.text((left, TOP - 1), y_name, "start")

    def curve(self, points: Sequence[Corner], kind: str) -> None:
        """Draw a line through points given in the axes' figures."""
        self.marks.append(tag("polyline", points=self._pixels(points), class_=f"line {kind}"))

    def band(self, low: Sequence[Corner], high: Sequence[Corner], kind: str) -> None:
        """Fill between two lines."""
        around = self._pixels([*low, *reversed(high)])
        self.marks.append(tag("polygon", points=around, class_=f"band {kind}"))

    def dot(self, point: Corner, kind: str, title: str, radius: float = 5) -> None:
        """Draw a round mark that tells its name when it is pointed at."""
        left, top = self.x(point[0]), self.y(point[1])
        mark = tag("circle", tag("title", title), cx=_px(left), cy=_px(top), r=radius, class_=kind)
        self.marks.append(mark)
        self.taken.append((left - radius, top - radius, left + radius, top + radius))

    def diamond(self, point: Corner, kind: str, title: str) -> None:
        """Draw a mark with corners, for the one point that matters most."""
        left, top, size = self.x(point[0]), self.y(point[1]), 8
        corners = [(left, top - size), (left + size, top), (left, top + size), (left - size, top)]
        points = " ".join(f"{_px(at)},{_px(down)}" for at, down in corners)
        self.marks.append(tag("polygon", tag("title", title), points=points, class_=kind))
        self.taken.append((left - size, top - size, left + size, top + size))

    def whisker(self, x: float, low: float, high: float, kind: str) -> None:
        """Draw an interval upright."""
        at = self.x(x)
        self.line_between((at, self.y(low)), (at, self.y(high)), f"whisker {kind}")

    def name(self, point: Corner, text: str, kind: str = "") -> bool:
        """Write a label beside a point, or nothing where it would cover another; tell which."""
        left, top, width = self.x(point[0]), self.y(point[1]), len(text) * CHARACTER_PX
        places = (
            (left + 9, top + 4, "start"),
            (left - 9, top + 4, "end"),
            (left, top - 10, "middle"),
            (left, top + 20, "middle"),
            (left + 6, top - 9, "start"),
            (left - 6, top + 18, "end"),
        )
        for at, base, anchor in places:
            first = at - width * {"start": 0.0, "middle": 0.5, "end": 1.0}[anchor]
            box = (first - 2, base - LINE_PX + 3, first + width + 2, base + 4)
            if self._free(box):
                self.taken.append(box)
                self.text((at, base), text, anchor, kind)
                return True
        return False

    def text(self, place: Corner, text: str, anchor: str, kind: str = "") -> None:
        """Write text at a place given in pixels."""
        at = {"x": _px(place[0]), "y": _px(place[1])}
        self.marks.append(tag("text", text, text_anchor=anchor, class_=kind, **at))

    def line_between(self, one: Corner, other: Corner, kind: str) -> None:
        """Draw a straight line between places given in pixels."""
        ends = {"x1": _px(one[0]), "y1": _px(one[1]), "x2": _px(other[0]), "y2": _px(other[1])}
        self.marks.append(tag("line", class_=kind, **ends))

    def picture(self, kind: str = "") -> Element:
        """Return what was drawn."""
        view = {"viewBox": f"0 0 {self.width} {self.height}"}
        return tag("svg", *self.marks, role="img", aria_label=self.label, class_=kind, **view)

    def _free(self, box: Box) -> bool:
        inside = box[0] >= self.x.start_px and box[2] <= self.width and box[1] >= 0
        return (
            inside and box[3] <= self.y.start_px and not any(_meet(box, one) for one in self.taken)
        )

    def _pixels(self, points: Sequence[Corner]) -> str:
        return " ".join(f"{_px(self.x(x))},{_px(self.y(y))}" for x, y in points)


def plot_area(
    width: int, height: int, x: tuple[float, float], y: tuple[float, float], *, log: bool = False
) -> tuple[Scale, Scale]:
    """Return both axes of a picture of this size, the first one logarithmic if asked for."""
    return (
        Scale(x[0], x[1], LEFT, width - RIGHT, log=log),
        Scale(y[0], y[1], height - BOTTOM, TOP + 8),
    )


def shortened(text: str, width_px: float) -> str:
    """Return as much of a name as fits; the table behind the plot has all of it."""
    most = max(int(width_px / BOLD_PX), 2)
    return text if len(text) <= most else f"{text[: most - 1]}\N{HORIZONTAL ELLIPSIS}"


def _meet(one: Box, other: Box) -> bool:
    apart = one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
    return not apart


def _px(value: float) -> str:
    return f"{value:.1f}"
