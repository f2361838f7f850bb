"""Products of float32 matrices, by the faster of the two libraries that torch brings.

torch multiplies float32 with MKL, which gives processors that are not Intel's programs for AVX2:
half of what their AVX-512 units do. oneDNN asks only what a processor can do, and takes matrices in
a layout of its own, which `Tensor.to_mkldnn` makes. Both multiply and add in float32; the order of
their sums differs.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


def laid_out(matrix: Float[Tensor, "row width"]) -> Tensor:
    """A matrix as `product` wants it, on either side: worth it for one that is used several times.

    It may share its memory with the one given.
    """
    plain = matrix.device.type != "cpu" or matrix.dtype is not torch.float32
    return matrix if plain or not _onednn_is_faster() else matrix.to_mkldnn()


def product(rows: Tensor, columns: Tensor, *, out: Float[Tensor, "row column"]) -> Tensor:
    """Rows @ columns.T of two matrices that were laid out; in `out`, or in memory of its own."""
    if rows.is_mkldnn:
        return functional.linear(rows, columns).to_dense()
    return torch.mm(rows, columns.T, out=out)


@lru_cache
def _onednn_is_faster() -> bool:
    if not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()):
        return False
    if not hasattr(torch.cpu, "get_capabilities"):
        return False
    processor = torch.cpu.get_capabilities()
    return bool(processor.get("avx512_f")) and "Intel" not in str(processor.get("cpu_name"))
