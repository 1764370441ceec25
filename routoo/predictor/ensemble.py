"""Fits the ensemble: the views, several times, each time without one fold of the items."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from routoo.predictor.views import FOLD_VIEWS
from routoo.predictor.views.neighbours import NeighbourView
from routoo.predictor.views.view import TrainingItems, View

VIEW_NAMES = (*(view.name for view in FOLD_VIEWS), NeighbourView.name)
"""All views of a new fit, in the order of the stack."""


@dataclass(frozen=True, slots=True)
class EnsembleMember:
    """The views as they were fitted without one fold."""

    views: tuple[View, ...]

    @classmethod
    def fit(cls, items: TrainingItems) -> "EnsembleMember":
        """Fit every view on the same items."""
        return cls(tuple(view.fit(items) for view in FOLD_VIEWS))

    def log_odds(
        self, features: Float32[np.ndarray, "prompts features"]
    ) -> Float32[np.ndarray, "views prompts models"]:
        """Return each view's log-odds, in the order of `FOLD_VIEWS`."""
        return np.stack([view.log_odds(features) for view in self.views])

    def tensors(self) -> dict[str, np.ndarray]:
        """Return the arrays that are this member's own, named by view."""
        return {
            f"{view.name}_{key}": array
            for view in self.views
            for key, array in view.tensors().items()
            if key not in view.shared
        }

    def shared_tensors(self) -> dict[str, np.ndarray]:
        """Return the arrays that all members share."""
        return {key: view.tensors()[key] for view in self.views for key in view.shared}

    @classmethod
    def from_tensors(
        cls, tensors: Mapping[str, np.ndarray], shared: Mapping[str, np.ndarray]
    ) -> "EnsembleMember":
        """Read the arrays back; a view that the checkpoint was fitted without is left out.

        Args:
            tensors: The member's own arrays.
            shared: Arrays that all members share, among others.
        """
        views = []
        for view in FOLD_VIEWS:
            prefix = f"{view.name}_"
            own = {k.removeprefix(prefix): a for k, a in tensors.items() if k.startswith(prefix)}
            if own:
                views.append(view.from_tensors(own | {key: shared[key] for key in view.shared}))
        return cls(tuple(views))
