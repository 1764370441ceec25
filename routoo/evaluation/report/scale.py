"""From figures to pixels, and the figures worth a tick."""

import math
from dataclasses import dataclass

_TINY = 1e-12


@dataclass(frozen=True, slots=True)
class Scale:
    """One axis."""

    low: float
    high: float
    start_px: float
    """Pixel of the low end; may be the larger one."""
    end_px: float
    log: bool = False
    """Whether equal distances are equal ratios; both ends must be above 0 then."""

    def __call__(self, value: float) -> float:
        """Return a figure's pixel."""
        low, high, at = (self._bent(part) for part in (self.low, self.high, value))
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

    def _bent(self, value: float) -> float:
        return math.log(value) if self.log else value


def _linear_ticks(low: float, high: float, most: int) -> list[float]:
    rough = max(high - low, _TINY) / max(most, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(step * power for step in (1, 2, 5, 10) if step * power >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]
