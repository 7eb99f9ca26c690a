"""Strengths of group members from an incomplete set of matches: Bradley-Terry model and least-squares ratings.

Both are computed by conjugate gradients in plain Python, so a trainer that judges in its own process needs no numerical
library. The cost grows with the number of matches, not with the square of the group size.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from flex_judge.reward.groups.match import Match

PRIOR_DEVIATION = 1.5
"""Standard deviation of the normal prior of a strength, in logits.

Without a prior, a member that won all its matches would have an infinite strength. In simulated groups of 8 with true
deviations of 0.7, 1.5 and 3 logits, 1.5 had the smallest or nearly the smallest error of the win rates over all three.
The order of the strengths hardly depends on it."""
TIE_TOLERANCE = 1e-6
"""Strengths that differ by less are equal: they are exact up to rounding, and rounding must not decide a rank."""
STEP_TOLERANCE = 1e-10
MAX_NEWTON_STEPS = 100


@dataclass(frozen=True)
class PairResult:
    """Result of one match between two members."""

    first: int
    second: int
    value: float
    """Outcome for the first member (1 win, 0.5 tie, 0 loss), or its score minus the score of the second one."""


Values = dict[int, float]


def fit_matches(matches: Iterable[Match]) -> tuple[Values, Values]:
    """Fit strengths and ratings of the members to all matches of two members that have a verdict."""
    outcomes, differences = [], []
    for match in matches:
        if len(match.members) == 2 and match.has_verdict:
            (first, second), outcome = match.members, match.get_outcome(0, 1)
            assert first is not None, "only a baseline has no index"
            assert second is not None, "only a baseline has no index"
            assert outcome is not None, "the match has a verdict"
            outcomes.append(PairResult(first, second, outcome))
            differences.append(PairResult(first, second, match.get_margin(0)))
    return fit_strengths(outcomes), fit_ratings(differences)


def fit_strengths(outcomes: Sequence[PairResult]) -> Values:
    """Fit the strengths of the Bradley-Terry model, in logits: P(a beats b) = 1 / (1 + exp(strength b - strength a)).

    Maximizes the posterior with an independent normal prior of `PRIOR_DEVIATION` for each member, by Newton's method
    with step halving. A tie counts as half a win and half a loss. The posterior is strictly concave, so the solution is
    unique, also if the matches do not connect all members.

    Args:
        outcomes: outcome of each match.

    Returns:
        Strength of each member with a match; strengths within `TIE_TOLERANCE` are made equal.
    """
    precision = PRIOR_DEVIATION**-2
    strengths: Values = {member: 0.0 for outcome in outcomes for member in (outcome.first, outcome.second)}
    posterior = _compute_log_posterior(strengths, outcomes, precision)
    for _ in range(MAX_NEWTON_STEPS):
        gradient = {member: -precision * strength for member, strength in strengths.items()}
        weights = []
        for outcome in outcomes:
            chance = predict_win(strengths[outcome.first], strengths[outcome.second])
            gradient[outcome.first] += outcome.value - chance
            gradient[outcome.second] -= outcome.value - chance
            weights.append(chance * (1 - chance))
        step = _solve_laplacian(outcomes, weights, precision, gradient)
        # Halve the step while it overshoots; the loop ends because the step points uphill.
        while True:
            candidate = {member: strength + step[member] for member, strength in strengths.items()}
            candidate_posterior = _compute_log_posterior(candidate, outcomes, precision)
            largest = max(map(abs, step.values()), default=0.0)
            if candidate_posterior >= posterior or largest < STEP_TOLERANCE:
                break
            step = {member: change / 2 for member, change in step.items()}
        strengths, posterior = candidate, candidate_posterior
        if largest < STEP_TOLERANCE:
            break
    return _merge_ties(strengths)


def fit_ratings(differences: Sequence[PairResult]) -> Values:
    """Fit ratings whose differences are as close as possible to the score differences of the matches (Massey's method).

    If every pair was compared once, the rating of a member is its mean score difference times (n - 1) / n. The ratings
    of members that matches connect sum to 0.

    Args:
        differences: score difference of each match.

    Returns:
        Rating of each member with a match, on the scale of the scores.
    """
    totals: Values = defaultdict(float)
    for difference in differences:
        totals[difference.first] += difference.value
        totals[difference.second] -= difference.value
    return _solve_laplacian(differences, [1.0] * len(differences), 0.0, totals)


def predict_win(strength: float, other: float) -> float:
    """Predict the probability that a member beats another one."""
    # The hyperbolic tangent does not overflow, unlike the exponential.
    return 0.5 * (1 + math.tanh((strength - other) / 2))


def predict_win_rates(strengths: Mapping[int, float]) -> Values:
    """Compute each member's mean predicted probability to beat another member; a single member has none."""
    num_others = len(strengths) - 1
    if num_others < 1:
        return {}
    return {
        member: (math.fsum(predict_win(strength, other) for other in strengths.values()) - 0.5) / num_others
        for member, strength in strengths.items()
    }


def _compute_log_posterior(strengths: Values, outcomes: Sequence[PairResult], precision: float) -> float:
    terms = [-precision / 2 * strength**2 for strength in strengths.values()]
    for outcome in outcomes:
        gap = strengths[outcome.first] - strengths[outcome.second]
        # value * log p + (1 - value) * log(1 - p), written so that it does not overflow
        terms.append((outcome.value - 1) * gap - math.log1p(math.exp(-abs(gap))) - max(-gap, 0.0))
    return math.fsum(terms)


def _solve_laplacian(
    matches: Sequence[PairResult], weights: Sequence[float], ridge: float, target: Mapping[int, float]
) -> Values:
    """Solve (L + ridge I) x = target by conjugate gradients, where L is the weighted Laplacian of the matches.

    Without a ridge the solution is the smallest one: it sums to 0 over members that matches connect. `target` must then
    sum to 0 over them too.
    """
    solution = dict.fromkeys(target, 0.0)
    residual = dict(target)
    direction = dict(residual)
    energy = first_energy = math.fsum(value * value for value in residual.values())
    for _ in range(2 * len(residual)):  # exact after as many steps as members, up to rounding
        if energy <= 1e-26 * first_energy:
            break
        product = {member: ridge * value for member, value in direction.items()}
        for match, weight in zip(matches, weights, strict=True):
            flow = weight * (direction[match.first] - direction[match.second])
            product[match.first] += flow
            product[match.second] -= flow
        curvature = math.fsum(direction[member] * product[member] for member in direction)
        if curvature <= 0.0:
            break
        scale = energy / curvature
        for member in solution:
            solution[member] += scale * direction[member]
            residual[member] -= scale * product[member]
        previous, energy = energy, math.fsum(value * value for value in residual.values())
        direction = {member: residual[member] + energy / previous * value for member, value in direction.items()}
    return solution


def _merge_ties(strengths: Values) -> Values:
    """Make strengths equal that differ by rounding errors only."""
    merged: Values = {}
    level = -math.inf
    for member, strength in sorted(strengths.items(), key=lambda item: item[1]):
        if strength - level > TIE_TOLERANCE:
            level = strength
        merged[member] = level
    return {member: merged[member] for member in strengths}
