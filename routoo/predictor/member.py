"""One member of the ensemble: the parametric views, fitted without one fold."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64

from routoo.predictor.options import ClassWeight
from routoo.predictor.regression import Linear, Ridge, fit_logistic
from routoo.predictor.views.domain import DomainView
from routoo.predictor.views.kernel import KernelView

PARAMETRIC_VIEWS = ("linear", "domain", "kernel")
ALL_VIEWS = (*PARAMETRIC_VIEWS, "neighbours")


@dataclass(frozen=True, slots=True)
class Member:
    """Views that are functions with weights of their own."""

    linear: Linear
    domain: DomainView
    kernel: KernelView

    @classmethod
    def fit(
        cls,
        features: Float32[np.ndarray, "items features"],
        score: Float32[np.ndarray, "items models"],
        domains: Int64[np.ndarray, " items"],
        landmarks: np.ndarray,
        ridge: Ridge,
        class_weight: ClassWeight,
    ) -> "Member":
        """Fit every view on the same items.

        Class weights count in the linear view's loss alone. Weighing the outcomes of a domain's
        mean would move its log-odds by as much in every domain, which the stack takes out again.
        The kernel view solves one system of equations for all models; with weights of their own
        it would be one system a model.
        """
        return cls(
            fit_logistic(features, score, ridge, class_weight),
            DomainView.fit(features, score, domains),
            KernelView.fit(features, score, landmarks),
        )

    def __call__(
        self, features: Float32[np.ndarray, "prompts features"]
    ) -> Float32[np.ndarray, "views prompts models"]:
        """Return each view's log-odds, in the order of PARAMETRIC_VIEWS."""
        return np.stack([self.linear(features), self.domain(features), self.kernel(features)])

    def tensors(self) -> dict[str, np.ndarray]:
        """Return the arrays a checkpoint keeps; landmarks are shared and stand elsewhere."""
        return {
            "linear_weight": self.linear.weight,
            "linear_bias": self.linear.bias,
            "domain_weight": self.domain.classifier.weight,
            "domain_bias": self.domain.classifier.bias,
            "domain_means": self.domain.means,
            "kernel_weight": self.kernel.weight,
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, np.ndarray], landmarks: np.ndarray) -> "Member":
        """Read the arrays back."""
        classifier = Linear(tensors["domain_weight"], tensors["domain_bias"])
        return cls(
            Linear(tensors["linear_weight"], tensors["linear_bias"]),
            DomainView(classifier, tensors["domain_means"]),
            KernelView(landmarks, tensors["kernel_weight"]),
        )
