"""Fits boosted trees that correct the log-odds of several outcomes through a few factors.

Each tree is extremely randomised (the best of random thresholds: Geurts et al., Machine Learning
63, 2006), fitted to the residuals of all factors at once; its leaves take a Newton step of the log
loss (Friedman, Annals of Statistics 29, 2001).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Int64
from sklearn.tree import ExtraTreeRegressor

from routoo.judge.log_odds import sigmoid
from routoo.judge.trees import BoostedTrees


@dataclass(frozen=True, slots=True)
class BoostingOptions:
    """How trees are fitted."""

    trees: int
    seed: int
    depth: int = 5
    learning_rate: float = 0.08
    ridge: float = 15.0
    """Added to the curvature of each leaf."""
    least_rows: int = 20
    """Rows in a leaf."""
    share: float = 0.5
    """Share of the features that is tried in a node."""


def fit_boosting(
    features: Float32[np.ndarray, "rows features"],
    prior: Float[np.ndarray, "rows outcomes"],
    score: Float32[np.ndarray, "rows outcomes"],
    loading: Float[np.ndarray, "outcomes factors"],
    weight: Float[np.ndarray, " factors"],
    options: BoostingOptions,
) -> BoostedTrees:
    """Fit trees that correct log-odds.

    Args:
        features: What the trees look at.
        prior: Log-odds before; the trees' factors, times the loadings, are added to them.
        score: What came, in [0, 1]; NaN where not known.
        loading: By how much each factor moves each outcome.
        weight: How much each factor counts where trees choose their splits.
        options: Number and size of the trees.
    """
    known = ~np.isnan(score)
    wanted, current = np.where(known, score, 0.0), np.array(prior, np.float64)
    trees = []
    for number in range(options.trees):
        chance = sigmoid(current)
        slope = np.where(known, wanted - chance, 0.0) @ loading
        curvature = np.where(known, chance * (1 - chance), 0.0) @ loading**2
        tree = _random_tree(options, number).fit(features, slope * weight)
        leaf = tree.apply(features)
        value = _leaf_values(leaf, tree.tree_.node_count, slope, curvature, options)
        current += value[leaf] @ loading.T
        trees.append(_completed(tree, value, options.depth))
    return BoostedTrees.joined(trees)


def _random_tree(options: BoostingOptions, number: int) -> ExtraTreeRegressor:
    return ExtraTreeRegressor(
        max_depth=options.depth,
        min_samples_leaf=options.least_rows,
        max_features=options.share,
        random_state=options.seed + number,
    )


def _leaf_values(
    leaf: Int64[np.ndarray, " rows"],
    nodes: int,
    slope: Float[np.ndarray, "rows factors"],
    curvature: Float[np.ndarray, "rows factors"],
    options: BoostingOptions,
) -> Float[np.ndarray, "nodes factors"]:
    """Return the step that each leaf takes; 0 for other nodes."""
    steps = np.zeros((nodes, slope.shape[1]))
    for factor in range(slope.shape[1]):
        sums = np.bincount(leaf, slope[:, factor], nodes)
        bends = np.bincount(leaf, curvature[:, factor], nodes)
        steps[:, factor] = options.learning_rate * sums / (bends + options.ridge)
    return steps


def _completed(
    tree: ExtraTreeRegressor, value: Float[np.ndarray, "nodes factors"], depth: int
) -> BoostedTrees:
    """Return a tree as one in which every path has the same length."""
    nodes = 2**depth - 1
    feature, threshold = np.zeros(nodes, np.int16), np.full(nodes, np.inf, np.float32)
    source = np.zeros(2 * nodes + 1, np.int64)
    inner = tree.tree_
    for node in range(nodes):
        at = source[node]
        left, right = inner.children_left[at], inner.children_right[at]
        if left >= 0:
            feature[node], threshold[node] = inner.feature[at], inner.threshold[at]
        source[2 * node + 1 : 2 * node + 3] = (left, right) if left >= 0 else (at, at)
    return BoostedTrees(
        feature[None], threshold[None], value[source[nodes:]].astype(np.float16)[None]
    )
