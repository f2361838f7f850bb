"""Sums per document: a known answer, and that neither order nor splits matter."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from moe_lens.stats.document_sums import DocumentSums

Row = tuple[int, int, int]  # layer, document, value


def added(rows: list[Row]) -> DocumentSums:
    sums = DocumentSums()
    for layer, document, value in rows:
        one = torch.tensor([[value, 2 * value]], dtype=torch.float64)
        sums.add(layer, torch.tensor([document]), one)
    return sums


def told(sums: DocumentSums) -> dict[int, list[list[float]]]:
    return {
        layer: [part.tolist() for part in sums.rows(layer)]  # documents, counts, sums
        for layer in sums.layers
    }


def test_a_known_answer() -> None:
    sums = DocumentSums()
    values = torch.tensor([[1.0, 10.0], [2.0, 20.0], [4.0, 40.0]], dtype=torch.float64)
    sums.add(3, torch.tensor([7, 5, 7]), values)
    sums.add(3, torch.tensor([5]), torch.tensor([[8.0, 80.0]], dtype=torch.float64))
    sums.add(1, torch.tensor([5]), values[:1], torch.tensor([6]))
    assert sums.layers == (1, 3)
    assert told(sums) == {
        1: [[5], [6], [[1.0, 10.0]]],
        3: [[5, 7], [2, 2], [[10.0, 100.0], [5.0, 50.0]]],
    }


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4), st.integers(-9, 9))),
    st.integers(0, 20),
    st.randoms(use_true_random=False),
)
def test_order_splits_and_a_saved_state_change_nothing(
    rows: list[Row], cut: int, random: object
) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    whole = added(rows)
    first = DocumentSums.from_state(added(shuffled[:cut]).state())
    first.merge(added(shuffled[cut:]))
    assert told(first) == told(whole)
