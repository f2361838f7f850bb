"""Intervals that resample documents cover what they should."""

from __future__ import annotations

import itertools
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import Float64
from scipy import optimize, stats

from moe_lens.analysis.intervals import Estimates, bootstrap_weights, means, rates
from tests.analysis.cases import lengths, overdispersed

SETTINGS = list(itertools.product((20, 50, 200), (0.02, 0.1, 0.7), (0.4, 0.8)))


def coverage(seed: int, setting: tuple[int, float, float], overlap: float, draws: int) -> float:
    num_documents, rate, spread = setting
    rng = np.random.default_rng(seed)
    hits = 0
    per_corpus = 10  # rates share the lengths of their corpus, as experts of a layer do
    for _ in range(draws // per_corpus):
        tokens = lengths(rng, num_documents, spread)
        found = rates(overdispersed(rng, tokens, rate, overlap, per_corpus), tokens, baseline=rate)
        inside = (found.low <= rate) & (rate <= found.high)
        assert (inside == (found.p_value >= 0.05)).all(), "interval and p-value disagree"
        hits += int(inside.sum())
    return hits / draws


@pytest.mark.parametrize("setting", SETTINGS)
def test_intervals_of_rates_cover(setting: tuple[int, float, float]) -> None:
    # 1,500 draws: the standard error at 95 % is 0.6 points.
    assert 0.92 <= coverage(1, setting, 0.03, 1500) <= 0.985


@pytest.mark.slow
@pytest.mark.parametrize("overlap", [0.003, 0.03, 0.1])
@pytest.mark.parametrize("setting", SETTINGS)
def test_intervals_of_rates_cover_many(setting: tuple[int, float, float], overlap: float) -> None:
    assert 0.92 <= coverage(2, setting, overlap, 4000) <= 0.982


def test_document_free_intervals_would_not_cover() -> None:
    # The simulation can tell: treating tokens as independent fails it.
    rng = np.random.default_rng(3)
    tokens = lengths(rng, 50, 0.4)
    chosen = overdispersed(rng, tokens, 0.1, 0.03, 1000)
    rate = chosen.sum(axis=0) / tokens.sum()
    error = np.sqrt(rate * (1 - rate) / tokens.sum())
    assert np.mean(np.abs(rate - 0.1) <= 1.96 * error) < 0.7


@pytest.mark.parametrize("num_documents", [20, 60])
@pytest.mark.parametrize("geometric", [False, True])
def test_intervals_of_paired_perplexity_ratios_cover(num_documents: int, geometric: bool) -> None:
    """Loss differences vary between documents and tokens; lengths are unequal."""
    rng = np.random.default_rng(4)
    hits = 0
    for _ in range(100):
        tokens = lengths(rng, num_documents, 0.7)
        own = rng.gamma(4.0, 0.08, size=(num_documents, 10))  # skewed, mean 0.32 nats
        extra = own + rng.normal(size=own.shape) / np.sqrt(tokens)[:, None]
        found = (
            means(extra, np.ones(num_documents))
            if geometric
            else means(extra * tokens[:, None], tokens)
        )
        hits += int(((found.low <= 0.32) & (found.high >= 0.32)).sum())
    assert 0.92 <= hits / 1000 <= 0.985


def test_equal_documents_give_the_textbook_interval() -> None:
    # Documents of equal length: the mean of their values with Student's t, n - 1 degrees.
    values = np.array([1.0, 2.0, 4.0, 4.0, 9.0, 10.0])
    found = means(values[:, None], np.ones(6), baseline=3.0)
    expected = stats.ttest_1samp(values, 3.0)
    interval = expected.confidence_interval(0.95)
    assert found.value[0] == pytest.approx(5.0)
    assert found.low[0] == pytest.approx(interval.low)
    assert found.high[0] == pytest.approx(interval.high)
    assert found.p_value[0] == pytest.approx(expected.pvalue)


def test_degrees_of_freedom_against_matrices() -> None:
    """Bell and McCaffrey's degrees of freedom and scale, from the matrices themselves."""
    rng = np.random.default_rng(5)
    weights, values = rng.integers(1, 50, 9).astype(float), rng.normal(size=9)
    share = weights / weights.sum()
    centring = np.eye(9) - np.outer(np.ones(9), share)
    form = centring.T @ np.diag((share / (1 - share)) ** 2) @ centring
    dof = np.trace(form) ** 2 / np.trace(form @ form)
    variance = values @ form @ values * (share @ share) / np.trace(form)
    reach = stats.t.ppf(0.975, dof) * np.sqrt(variance)
    found = means((values * weights)[:, None], weights)
    assert found.high[0] - found.value[0] == pytest.approx(reach)


@pytest.mark.parametrize("num_documents", [1, 4])
def test_few_documents_have_no_interval(num_documents: int) -> None:
    tokens = np.full(num_documents, 10)
    for found in (
        rates(np.full((num_documents, 1), 4), tokens, baseline=0.1),
        means(np.full((num_documents, 1), 4.0), tokens, baseline=0.1),
    ):
        assert found.value[0] == pytest.approx(0.4)
        assert np.isnan([found.low[0], found.high[0], found.p_value[0]]).all()


def test_documents_without_tokens_do_not_count() -> None:
    tokens = np.array([10, 10, 10, 10, 0])
    assert np.isnan(rates(np.array([[1], [2], [3], [4], [0]]), tokens).low[0])


def test_never_chosen_has_the_exact_bound() -> None:
    # 40 equal documents, none of which chose: (1 - bound) ** 40 = 0.025.
    found = rates(np.zeros((40, 1), dtype=np.int64), np.full(40, 100), baseline=0.2)
    assert (found.value[0], found.low[0]) == (0.0, 0.0)
    assert found.high[0] == pytest.approx(1 - 0.025 ** (1 / 40))
    assert found.p_value[0] == pytest.approx(2 * 0.8**40)


def test_always_chosen_mirrors_never_chosen() -> None:
    tokens = np.full(40, 100)
    never = rates(np.zeros((40, 1), dtype=np.int64), tokens, baseline=0.2)
    always = rates(np.full((40, 1), 100), tokens, baseline=0.8)
    assert always.low[0] == pytest.approx(1 - never.high[0])
    assert always.p_value[0] == pytest.approx(never.p_value[0])
    assert rates(np.full((40, 1), 100), tokens, baseline=1.0).p_value[0] == 1.0


def test_one_document_that_chose_tells_little() -> None:
    # Clopper and Pearson's bound for 1 of 40, solved here by hand.
    chosen = np.zeros((40, 1), dtype=np.int64)
    chosen[7] = 3
    found = rates(chosen, np.full(40, 100))

    def excess(p: float) -> float:
        return float(sum(comb(40, i) * p**i * (1 - p) ** (40 - i) for i in (0, 1)) - 0.025)

    assert found.high[0] == pytest.approx(optimize.brentq(excess, 1e-6, 0.5))


def test_documents_that_agree_keep_the_spread_of_tokens() -> None:
    found = rates(np.full((10, 1), 30), np.full(10, 100))
    assert found.low[0] < 0.3 < found.high[0]
    assert found.high[0] - found.low[0] == pytest.approx(
        2 * stats.t.ppf(0.975, 9) * np.sqrt(0.3 * 0.7 / 1000), rel=0.02
    )


def test_no_difference_at_all_is_no_difference() -> None:
    found = means(np.zeros((8, 1)), np.full(8, 3.0), baseline=0.0)
    assert (found.low[0], found.high[0], found.p_value[0]) == (0.0, 0.0, 1.0)


def test_bad_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="more chosen tokens than tokens"):
        rates(np.array([[3]]), np.array([2]))
    with pytest.raises(ValueError, match="weights from 0 up"):
        means(np.array([[3.0]]), np.array([0.0]))
    with pytest.raises(ValueError, match="without tokens"):
        means(np.array([[3.0], [1.0]]), np.array([0.0, 1.0]))


def everything(found: Estimates) -> Float64[np.ndarray, "four stat"]:
    return np.stack([found.value, found.low, found.high, found.p_value])


@given(seed=st.integers(0, 10**6), num_documents=st.integers(5, 30))
def test_order_of_documents_does_not_matter(seed: int, num_documents: int) -> None:
    rng = np.random.default_rng(seed)
    tokens = lengths(rng, num_documents, 0.7)
    chosen = overdispersed(rng, tokens, 0.1, 0.1, 3)
    order = rng.permutation(num_documents)
    straight = rates(chosen, tokens, baseline=0.2)
    mixed = rates(chosen[order], tokens[order], baseline=0.2)
    np.testing.assert_allclose(everything(mixed), everything(straight), rtol=1e-9, atol=1e-300)


@given(seed=st.integers(0, 10**6), scale=st.floats(1e-3, 1e3))
def test_units_of_means_do_not_matter(seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    sums, weights = rng.normal(size=(9, 2)), rng.random(9) + 0.1
    one, other = (
        means(sums, weights, baseline=0.1),
        means(sums, weights * scale, baseline=0.1 / scale),
    )
    np.testing.assert_allclose(other.low * scale, one.low)
    np.testing.assert_allclose(other.p_value, one.p_value, rtol=1e-6)


@given(seed=st.integers(0, 10**6), num_documents=st.integers(5, 40))
def test_the_interval_holds_the_rate_and_chosen_mirrors_not_chosen(
    seed: int, num_documents: int
) -> None:
    rng = np.random.default_rng(seed)
    tokens = lengths(rng, num_documents, 1.0)
    chosen = overdispersed(rng, tokens, 0.03, 0.3, 4)
    found, mirror = rates(chosen, tokens), rates(tokens[:, None] - chosen, tokens)
    assert (found.low >= 0).all()
    assert (found.low <= found.value).all()
    assert (found.value <= found.high).all()
    assert (found.high <= 1).all()
    np.testing.assert_allclose(mirror.low, 1 - found.high, atol=1e-9)


def test_bootstrap_weights_resample_documents() -> None:
    weights = bootstrap_weights(7, num_draws=2000, seed=1)
    assert (weights.sum(axis=1) == 7).all()
    assert weights.mean(axis=0) == pytest.approx(np.ones(7), abs=0.1)
    assert weights.var() == pytest.approx(6 / 7, abs=0.05)
    assert (weights == bootstrap_weights(7, num_draws=2000, seed=1)).all()
