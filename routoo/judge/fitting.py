"""Fits judges, one of each model's answers, to graded answers and cross-fitted predictions.

A judge is made of boosted trees that correct the log-odds of several outcomes through a few
factors. Each tree is extremely randomised (the best of random thresholds: Geurts et al., Machine
Learning 63, 2006), fitted to the residuals of all factors at once; its leaves take a Newton step of
the log loss (Friedman, Annals of Statistics 29, 2001).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64
from scipy.sparse import csr_matrix
from sklearn.linear_model import Ridge
from sklearn.tree import ExtraTreeRegressor

from routoo.judge.hashed_text import WIDTH, TextWeights
from routoo.judge.log_odds import fit_strength
from routoo.judge.outcomes import OutcomeModel
from routoo.judge.probe_judge import (
    FIRST_FEATURES,
    AnswerInputs,
    PriorView,
    ProbeJudge,
    tree_inputs,
)
from routoo.judge.trees import BoostedTrees
from routoo.predictor.scores import sigmoid


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
        score: Observed scores, in [0, 1]; NaN where not known.
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


_TEXT_RIDGE = 3.0
_FACTORS = 4
"""Directions in which the other models' outcomes are followed."""
_OTHERS_WEIGHT = 0.5
"""What a direction of the others counts for in a split, beside the probe's own outcome."""
_FEW_ROWS = 2000
_TREES, _TREES_OF_FEW_ROWS = 200, 100
_SHARED_TREES, _SHARED_RATE = 50, 0.16
_MOST_SHARED_ROWS = 8000
"""Answers that the shared trees of a fold are fitted to; of more so many are drawn."""
_SHARED_SEED = 1_000_000
_PULL = 20.0


@dataclass(frozen=True, slots=True)
class GradedAnswers:
    """Answers of one model, with what was expected and what came."""

    probe: int
    """Column of the model."""
    inputs: AnswerInputs
    """The prior is of fits that had not seen the prompt."""
    score: Float32[np.ndarray, "answers models"]
    """NaN where not known."""
    folds: Int64[np.ndarray, " answers"]


@dataclass(frozen=True, slots=True)
class FittedJudge:
    """A judge, and what such a fit says of the answers it was made without."""

    judge: ProbeJudge
    held_out_quality: Float32[np.ndarray, "answers models"]


@dataclass(frozen=True, slots=True)
class _ReadAnswers:
    """Answers of one model as trees look at them."""

    graded: GradedAnswers
    view: PriorView
    words: TextWeights
    inputs: Float32[np.ndarray, "answers inputs"]

    @classmethod
    def of(cls, graded: GradedAnswers) -> "_ReadAnswers":
        """Fit words by folds, and say of each answer what those say that had not seen it."""
        view = PriorView.fit(graded.inputs.prior)
        words, said = _fit_words(graded)
        inputs = tree_inputs(graded.inputs, view, graded.probe, said)
        return cls(graded, view, words, inputs)

    @property
    def has_few_rows(self) -> bool:
        """Whether the answers are too few for as many trees as many answers bear."""
        return len(self.inputs) < _FEW_ROWS

    @property
    def shared_inputs(self) -> Float32[np.ndarray, "answers inputs"]:
        """The inputs without the directions of the prompts' estimates, which each model has."""
        inputs = self.inputs.copy()
        inputs[:, self.view.columns_of_components(self.graded.inputs.features.shape[1])] = 0
        return inputs


def fit_probe_judges(tables: Sequence[GradedAnswers]) -> Iterator[FittedJudge]:
    """Yield a judge of each model's answers.

    What makes an answer right or wrong is much the same for all models: where a model has few
    answers, trees that say whether one is right are fitted to all models' answers first, and its
    own trees go on from there.

    Args:
        tables: Answers of several models to items of the same folds, outcomes of the same models.
    """
    read = [_ReadAnswers.of(graded) for graded in _with_known_features(tables)]
    few = any(one.has_few_rows for one in read)
    shared = _fit_shared_trees(read) if few and len(read) > 1 else {}
    for one in read:
        yield _fit_probe_judge(one, shared if one.has_few_rows else {})


def _with_known_features(tables: Sequence[GradedAnswers]) -> Sequence[GradedAnswers]:
    """Leave the later features out where no answer has them: trees would draw from more of them."""
    if any(one.inputs.features[:, FIRST_FEATURES:].any() for one in tables):
        return tables
    first = [one.inputs.features[:, :FIRST_FEATURES] for one in tables]
    return [
        replace(one, inputs=replace(one.inputs, features=features))
        for one, features in zip(tables, first, strict=True)
    ]


def _fit_probe_judge(read: _ReadAnswers, shared: Mapping[int, BoostedTrees]) -> FittedJudge:
    """Fit trees by folds, then their strength and the outcomes to held-out judgements."""
    graded = read.graded
    prior, loading = graded.inputs.prior, _loading(graded)
    trees, shift = _fit_trees(read, loading, shared)
    strength = _strength(graded, shift)
    shift = shift * strength
    outcomes = OutcomeModel.fit(prior, shift, graded.score, graded.probe)
    members = len(np.unique(graded.folds))
    weighted = (loading * strength[:, None] / members).astype(np.float32)
    features = graded.inputs.features.shape[1]
    judge = ProbeJudge(graded.probe, read.view, read.words, trees, weighted, outcomes, features)
    return FittedJudge(judge, sigmoid(prior + shift).astype(np.float32))


def _fit_shared_trees(read: Sequence[_ReadAnswers]) -> dict[int, BoostedTrees]:
    """Return for each fold trees of whether an answer is right, fitted to the other folds."""
    inputs = np.concatenate([one.shared_inputs for one in read])
    graded = [one.graded for one in read]
    prior = np.concatenate([one.inputs.prior[:, [one.probe]] for one in graded])
    score = np.concatenate([one.score[:, [one.probe]] for one in graded])
    folds = np.concatenate([one.folds for one in graded])
    factors = _loading(graded[0]).shape[1]
    options = BoostingOptions(_SHARED_TREES, _SHARED_SEED, learning_rate=_SHARED_RATE)
    generator, one = np.random.default_rng(_SHARED_SEED), np.ones((1, 1))
    shared = {}
    for fold in np.unique(folds).tolist():
        rows = np.flatnonzero(folds != fold)
        if len(rows) > _MOST_SHARED_ROWS:
            rows = np.sort(generator.choice(rows, _MOST_SHARED_ROWS, replace=False))
        own = replace(options, seed=options.seed + fold * options.trees)
        part = fit_boosting(inputs[rows], prior[rows], score[rows], one, one[0], own)
        shared[fold] = part.widened(factors)
    return shared


def _fit_words(answers: GradedAnswers) -> tuple[TextWeights, Float32[np.ndarray, "answers 2"]]:
    """Return the mean of each fold's weights, and what they say of the fold they had not seen."""
    texts = answers.inputs.texts
    matrix = csr_matrix((texts.value, texts.bucket, texts.start), (len(answers.score), WIDTH))
    surprise = _surprise(answers)
    others = np.delete(surprise, answers.probe, axis=1)
    target = np.stack([surprise[:, answers.probe], others.sum(axis=1)], axis=1)
    target[:, 1] /= max(others.shape[1], 1)
    said, fits = np.zeros(target.shape, np.float32), []
    for fold in np.unique(answers.folds):
        held = answers.folds == fold
        ridge = Ridge(_TEXT_RIDGE, solver="sparse_cg", tol=1e-3)
        fits.append(ridge.fit(matrix[~held], target[~held]))
        said[held] = ridge.predict(matrix[held])
    weight = np.mean([fit.coef_.T for fit in fits], axis=0)
    intercept = np.mean([fit.intercept_ for fit in fits], axis=0)
    return TextWeights(weight.astype(np.float32), intercept.astype(np.float32)), said


def _surprise(answers: GradedAnswers) -> Float64[np.ndarray, "answers models"]:
    """Return what came less what was expected; 0 where nothing is known."""
    return np.asarray(np.nan_to_num(answers.score - sigmoid(answers.inputs.prior)))


def _loading(answers: GradedAnswers) -> Float64[np.ndarray, "models factors"]:
    """Return factors: the probe's own outcome, then directions in which the others' vary."""
    surprise = _surprise(answers)
    surprise[:, answers.probe] = 0
    models = surprise.shape[1]
    axes = np.linalg.svd(surprise, full_matrices=False)[2][: min(_FACTORS, models - 1)]
    own = np.eye(models)[:, [answers.probe]]
    return np.concatenate([own, axes.T * np.sqrt(max(models - 1, 1))], axis=1)


def _fit_trees(
    read: _ReadAnswers,
    loading: Float64[np.ndarray, "models factors"],
    shared: Mapping[int, BoostedTrees],
) -> tuple[BoostedTrees, Float64[np.ndarray, "answers models"]]:
    """Return the trees of all folds, and by how much each fold's move those it had not seen."""
    graded, inputs = read.graded, read.inputs
    factors = loading.shape[1] - 1
    scale = _OTHERS_WEIGHT / np.sqrt(max(factors, 1) * max(len(loading) - 1, 1))
    weight = np.r_[1.0, np.full(factors, scale)]
    prior, score = graded.inputs.prior, graded.score
    shift, trees = np.zeros(prior.shape), []
    options = BoostingOptions(_TREES_OF_FEW_ROWS if read.has_few_rows else _TREES, seed=0)
    for fold in np.unique(graded.folds).tolist():
        held = graded.folds == fold
        own = replace(options, seed=fold * options.trees)
        begun = [shared[fold]] if fold in shared else []
        before = prior + sum(part(inputs) @ loading.T for part in begun)
        part = fit_boosting(inputs[~held], before[~held], score[~held], loading, weight, own)
        part = BoostedTrees.joined([*begun, part])
        shift[held] = part(inputs[held]) @ loading.T
        trees.append(part)
    return BoostedTrees.joined(trees), shift


def _strength(
    answers: GradedAnswers, shift: Float[np.ndarray, "answers models"]
) -> Float64[np.ndarray, " models"]:
    """Return how far held-out shifts are to be trusted: the probe's own, and all others'."""
    strength = np.ones(shift.shape[1])
    known = ~np.isnan(answers.score)
    score, own = np.nan_to_num(answers.score), np.arange(len(strength)) == answers.probe
    for columns in (own, ~own):
        if columns.any():
            strength[columns] = fit_strength(
                answers.inputs.prior[:, columns],
                shift[:, columns],
                score[:, columns],
                known[:, columns],
                _PULL,
            )
    return strength
