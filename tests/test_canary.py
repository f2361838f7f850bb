"""The shape checker of the test run is itself checked: a wrong shape must be an error."""

import pytest
import torch
from jaxtyping import TypeCheckError

from moe_lens.routing import Routing


def test_a_wrong_shape_is_an_error() -> None:
    with pytest.raises(TypeCheckError):
        Routing.from_choice(torch.zeros(3, 2, dtype=torch.int64), torch.zeros(3), num_experts=4)


def test_a_wrong_dtype_is_an_error() -> None:
    with pytest.raises(TypeCheckError):
        Routing.from_choice(torch.zeros(3, 2), torch.zeros(3, 2), num_experts=4)
