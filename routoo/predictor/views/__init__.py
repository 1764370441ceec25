"""Views: ways to expect every model's quality from the features of a prompt."""

from routoo.predictor.views.domain import DomainView
from routoo.predictor.views.kernel import KernelView
from routoo.predictor.views.view import LinearView, View

FOLD_VIEWS: tuple[type[View], ...] = (LinearView, DomainView, KernelView)
"""Fitted once a fold, in this order in the stack, where the neighbour view comes after them.

A view is added here, with a file of its own. Checkpoints keep the views they were fitted with.
"""
