"""Calibrates estimates: turns log-odds that rank well into probabilities that hold.

Per model, temperature (slope only), Platt (slope and shift; Platt 1999) or isotonic regression
(Zadrozny and Elkan 2002), whichever does best on held-out folds; none where none is clearly better.
All are kept as one polyline from log-odds to log-odds.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Int64

from routoo.predictor.scores import bounded_sigmoid, log_loss, logit

KNOTS = 65
MIN_OUTCOMES = 50
"""With fewer outcomes a curve would be fitted to noise."""
_MIN_FOLDS = 2
"""One fold to fit a curve on, one to measure its loss on."""
NONE = "none"
"""The stack's log-odds, as they are: they were fitted to log loss already."""
_LIMIT = 12.0
_SLOPE_RIDGE = 2.0
"""Pull of each slope towards 1: matters where a model has few outcomes."""
_PRIOR = 2.0
"""Isotonic steps are pulled to their logit by as many outcomes: none is 0 or 1."""

Vector = Float32[np.ndarray, " items"]
Curve = Callable[[Vector], Vector]


@dataclass(frozen=True, slots=True)
class Calibration:
    """Maps log-odds to calibrated probabilities by one increasing polyline a model."""

    knots: Float32[np.ndarray, "models knots"]
    values: Float32[np.ndarray, "models knots"]

    def __call__(
        self, logits: Float32[np.ndarray, "prompts models"]
    ) -> Float32[np.ndarray, "prompts models"]:
        """Return calibrated probabilities."""
        columns = [
            np.interp(logits[:, m], self.knots[m], self.values[m]) for m in range(len(self.knots))
        ]
        return bounded_sigmoid(np.stack(columns, axis=1))

    def tensors(self) -> dict[str, np.ndarray]:
        """Return the arrays a checkpoint keeps."""
        return {"knots": self.knots, "values": self.values}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, np.ndarray]) -> "Calibration":
        """Read the arrays back."""
        return cls(tensors["knots"], tensors["values"])


def fit_calibration(
    logits: Float32[np.ndarray, "items models"],
    score: Float32[np.ndarray, "items models"],
    folds: Int64[np.ndarray, " items"],
) -> tuple[Calibration, tuple[str, ...]]:
    """Choose and fit a curve a model, on predictions made without the items' outcomes.

    Returns:
        The curves, and the name of the method chosen for each model.
    """
    knots, values, methods = [], [], []
    for m in range(score.shape[1]):
        known = ~np.isnan(score[:, m])
        x, y = logits[known, m], score[known, m]
        method = _choose(x, y, folds[known])
        inner = np.quantile(x, np.linspace(0, 1, KNOTS - 2)) if len(x) else np.zeros(KNOTS - 2)
        grid = np.array([-_LIMIT, *np.clip(inner, -_LIMIT, _LIMIT), _LIMIT], np.float32)
        knots.append(grid)
        values.append(_METHODS[method](x, y)(grid) if method != NONE else grid)
        methods.append(method)
    stacked = np.stack(values).astype(np.float32)
    return Calibration(np.stack(knots), stacked), tuple(methods)


def _choose(x: Vector, y: Vector, folds: Int64[np.ndarray, " items"]) -> str:
    """Return the method with the least held-out loss, if it beats none by a standard error.

    With a few hundred outcomes a model, the least of several noisy losses would often be a curve
    fitted to noise: it would move one model's level against another's, which selection then follows
    (the one-standard-error rule; Breiman et al. 1984, section 3.4.3).
    """
    if len(x) < MIN_OUTCOMES or len(np.unique(folds)) < _MIN_FOLDS:
        return NONE
    plain = log_loss(y, bounded_sigmoid(x))
    savings = {name: plain - _held_out_loss(fit, x, y, folds) for name, fit in _METHODS.items()}
    best = max(savings, key=lambda name: float(savings[name].sum()))
    saved = savings[best]
    doubt = float(saved.std()) * np.sqrt(len(saved))
    return best if float(saved.sum()) > doubt else NONE


def _held_out_loss(
    fit: Callable[[Vector, Vector], Curve], x: Vector, y: Vector, folds: Int64[np.ndarray, " items"]
) -> Vector:
    loss = np.zeros_like(x)
    for fold in np.unique(folds):
        inside = folds != fold
        curve = fit(x[inside], y[inside])
        loss[~inside] = log_loss(y[~inside], bounded_sigmoid(curve(x[~inside])))
    return loss


def _temperature(x: Vector, y: Vector) -> Curve:
    slope, _ = _affine(x, y, shift=False)
    return lambda grid: grid * slope


def _platt(x: Vector, y: Vector) -> Curve:
    slope, shift = _affine(x, y, shift=True)
    return lambda grid: grid * slope + shift


def _isotonic(x: Vector, y: Vector) -> Curve:
    from sklearn.isotonic import IsotonicRegression

    model = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(x, y)
    pull = _PRIOR / (_PRIOR + np.sqrt(len(x)))
    return lambda grid: logit((1 - pull) * model.predict(grid) + pull * bounded_sigmoid(grid))


def _affine(x: Vector, y: Vector, *, shift: bool) -> tuple[float, float]:
    from scipy.optimize import minimize

    def objective(parameters: Float64[np.ndarray, " 2"]) -> tuple[float, np.ndarray]:
        raw = x * parameters[0] + parameters[1]
        error = bounded_sigmoid(raw) - y
        loss = float((np.logaddexp(0, raw) - y * raw).sum(dtype=np.float64))
        pull = parameters[0] - 1
        gradient = np.array([float(error @ x) + 2 * _SLOPE_RIDGE * pull, float(error.sum())])
        return loss + _SLOPE_RIDGE * pull**2, gradient

    width = 5.0 if shift else 0.0
    bounds = [(0.0, 3.0), (-width, width)]
    found = minimize(objective, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B", bounds=bounds)
    return float(found.x[0]), float(found.x[1])


_METHODS: dict[str, Callable[[Vector, Vector], Curve]] = {
    "temperature": _temperature,
    "platt": _platt,
    "isotonic": _isotonic,
}
