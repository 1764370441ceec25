"""Fits the judge of one model's answers to graded answers and cross-fitted prompt predictions."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64
from scipy.sparse import csr_matrix
from sklearn.linear_model import Ridge

from routoo.judge.boosting import BoostingOptions, fit_boosting
from routoo.judge.hashed_text import WIDTH, TextWeights
from routoo.judge.log_odds import fit_strength, sigmoid
from routoo.judge.outcomes import OutcomeModel
from routoo.judge.probe_judge import AnswerInputs, PriorView, ProbeJudge, tree_inputs
from routoo.judge.trees import BoostedTrees

_TEXT_RIDGE = 3.0
_FACTORS = 4
"""Directions in which the other models' outcomes are followed."""
_OTHERS_WEIGHT = 0.5
"""What a direction of the others counts for in a split, beside the probe's own outcome."""
_FEW_ROWS = 2000
_TREES, _TREES_OF_FEW_ROWS = 200, 100
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


def fit_probe_judge(answers: GradedAnswers) -> FittedJudge:
    """Fit words and trees by folds, then their strength and the outcomes to held-out judgements."""
    prior = answers.inputs.prior
    view = PriorView.fit(prior)
    words, said = _fit_words(answers)
    inputs = tree_inputs(answers.inputs, view, answers.probe, said)
    loading = _loading(answers)
    trees, shift = _fit_trees(answers, inputs, loading)
    strength = _strength(answers, shift)
    shift = shift * strength
    outcomes = OutcomeModel.fit(prior, shift, answers.score, answers.probe)
    members = len(np.unique(answers.folds))
    weighted = (loading * strength[:, None] / members).astype(np.float32)
    judge = ProbeJudge(answers.probe, view, words, trees, weighted, outcomes)
    return FittedJudge(judge, sigmoid(prior + shift).astype(np.float32))


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
    answers: GradedAnswers,
    inputs: Float32[np.ndarray, "answers inputs"],
    loading: Float64[np.ndarray, "models factors"],
) -> tuple[BoostedTrees, Float64[np.ndarray, "answers models"]]:
    """Return the trees of all folds, and by how much each fold's move those it had not seen."""
    factors = loading.shape[1] - 1
    scale = _OTHERS_WEIGHT / np.sqrt(max(factors, 1) * max(len(loading) - 1, 1))
    weight = np.r_[1.0, np.full(factors, scale)]
    prior, score = answers.inputs.prior, answers.score
    shift, trees = np.zeros(prior.shape), []
    few = len(inputs) < _FEW_ROWS
    options = BoostingOptions(_TREES_OF_FEW_ROWS if few else _TREES, seed=0)
    for fold in np.unique(answers.folds):
        held = answers.folds == fold
        own = replace(options, seed=int(fold) * options.trees)
        part = fit_boosting(inputs[~held], prior[~held], score[~held], loading, weight, own)
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
