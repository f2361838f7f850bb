"""Float32 products by either library, against float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moe_lens.lens import decode as decoding
from moe_lens.lens import products
from moe_lens.lens.unembed import OutputHead

ONEDNN = pytest.param(
    True,
    marks=pytest.mark.skipif(
        not torch.backends.mkldnn.is_available(), reason="this torch was built without oneDNN"
    ),
)


@pytest.mark.parametrize("onednn", [False, ONEDNN])
@given(
    num_rows=st.integers(1, 40),
    num_columns=st.integers(1, 70),
    width=st.integers(1, 300),
    seed=st.integers(0, 2**16),
)
def test_either_library_multiplies_and_adds_in_float32(
    onednn: bool, num_rows: int, num_columns: int, width: int, seed: int
) -> None:
    rng = torch.Generator().manual_seed(seed)
    rows = torch.randn(num_rows, width, generator=rng)
    columns = torch.randn(num_columns, width, generator=rng)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(products, "_onednn_is_faster", lambda: onednn)
        left, right = products.laid_out(rows), products.laid_out(columns)
        found = products.product(left, right, out=torch.empty(num_rows, num_columns))
    assert left.is_mkldnn is right.is_mkldnn is onednn
    exact, sizes = rows.double() @ columns.double().T, rows.abs() @ columns.abs().T
    # Each of `width` sums may round by half a unit of float32's last place, 16 bits by far more.
    assert bool(((found.double() - exact).abs() <= 2**-24 * (width + 1) * sizes).all())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_stay_as_they_are(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "_onednn_is_faster", lambda: True)
    matrix = torch.ones(3, 2, dtype=dtype)
    assert products.laid_out(matrix) is matrix


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch without oneDNN")
def test_decoding_says_the_same_with_either_library(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = torch.Generator().manual_seed(0)
    head = OutputHead(torch.randn(1100, 48, generator=rng).bfloat16())
    inputs, reference = torch.randn(9, 3, 48, generator=rng), torch.randn(9, 48, generator=rng)
    targets = torch.randint(1100, (9,), generator=rng)
    found = []
    for onednn in (False, True):
        monkeypatch.setattr(products, "_onednn_is_faster", lambda answer=onednn: answer)
        found.append(
            decoding.decode(
                head, inputs, num_top=5, targets=targets, reference=reference, block_rows=8
            )
        )
    one, two = found
    assert torch.equal(one.top_ids, two.top_ids)
    assert torch.equal(one.true_rank, two.true_rank)
    for name in ("top_log_probs", "log_normalizer", "true_log_prob", "kl_reference"):
        torch.testing.assert_close(getattr(one, name), getattr(two, name), rtol=2e-6, atol=2e-5)
