"""False discoveries stay at the stated rate."""

from __future__ import annotations

import numpy as np
import pytest

from moe_lens.analysis.intervals import rates
from moe_lens.analysis.multiplicity import q_values
from tests.analysis.cases import lengths, overdispersed


def test_q_values_by_hand() -> None:
    # p * n / place from the largest down: 0.04 * 4 / 4, min(0.03 * 4 / 3, .), 0.02 * 2, 0.004.
    p = np.array([0.04, 0.001, np.nan, 0.03, 0.02])
    found = q_values(p)
    assert np.isnan(found[2])
    assert found[~np.isnan(p)].tolist() == pytest.approx([0.04, 0.004, 0.04, 0.04])


def test_nothing_to_test() -> None:
    assert q_values(np.array([], dtype=np.float64)).tolist() == []
    assert np.isnan(q_values(np.array([np.nan]))).all()


def test_what_is_no_probability_is_refused() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        q_values(np.array([1.5]))


def corpora_with_a_discovery(seed: int, num_documents: int, overlap: float, corpora: int) -> float:
    """Under the null every discovery is false, so the rate is that of corpora with any."""
    rng = np.random.default_rng(seed)
    wrong = 0
    for _ in range(corpora):
        p = []
        for rate in (0.02, 0.1):
            tokens = lengths(rng, num_documents, 0.6)
            chosen = overdispersed(rng, tokens, rate, overlap, 100)
            p.append(rates(chosen, tokens, baseline=rate).p_value)
        wrong += bool((q_values(np.concatenate(p)) < 0.05).any())
    return wrong / corpora


@pytest.mark.parametrize("num_documents", [20, 60])
def test_no_false_discoveries_under_the_null(num_documents: int) -> None:
    # 300 corpora: the standard error at 5 % is 1.3 points.
    assert corpora_with_a_discovery(1, num_documents, 0.03, 300) <= 0.075


@pytest.mark.slow
@pytest.mark.parametrize("num_documents", [20, 60, 150])
@pytest.mark.parametrize("overlap", [0.005, 0.03])
def test_no_false_discoveries_under_the_null_many(num_documents: int, overlap: float) -> None:
    assert corpora_with_a_discovery(2, num_documents, overlap, 800) <= 0.065


def test_false_discoveries_among_true_ones_stay_at_the_rate() -> None:
    # Half of the experts are truly busier or less busy than the baseline.
    rng = np.random.default_rng(5)
    shares, found = [], 0
    for _ in range(100):
        tokens = lengths(rng, 60, 0.6)
        chosen = np.concatenate(
            [overdispersed(rng, tokens, r, 0.02, n) for r, n in ((0.1, 64), (0.2, 32), (0.05, 32))],
            axis=1,
        )
        told = q_values(rates(chosen, tokens, baseline=0.1).p_value) < 0.05
        shares.append(told[:64].sum() / max(int(told.sum()), 1))
        found += int(told[64:].sum())
    assert np.mean(shares) <= 0.05
    assert found / 6400 > 0.9, "the test has no power"
