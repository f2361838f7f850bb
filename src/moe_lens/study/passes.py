"""The passes of a run: each a policy and what it adds up, done in chunks that survive a kill."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from moe_lens.engine.probe import Probe, RandomProbe
from moe_lens.engine.sweep import Sink, Stream
from moe_lens.policies import Identity, KeepTopK, Policy, Renorm
from moe_lens.study.files import STATE, read_tensors, write_table, write_tensors
from moe_lens.study.spec import StudySpec
from moe_lens.study.sums import PassSums

FULL = "full"


@dataclass(frozen=True, eq=False)
class Pass:
    """One way of running the text through the model.

    Attributes:
        name: Of its files.
        k: Active experts.
        renorm: What kept weights become.
        policy: The routing policy.
        probe: The expert that is run beside the chosen ones; None without.
        make: New, empty sums.
    """

    name: str
    k: int
    renorm: str
    policy: Policy
    probe: Probe | None
    make: Callable[[], PassSums]

    def stream(self, sink: Sink, sums: PassSums) -> Stream:
        """What the engine is to run for it."""
        return Stream(self.policy, sink, sums.fields, self.probe)


def passes_of(
    spec: StudySpec,
    *,
    top_k: int,
    measures: Sequence[str],
    full: Callable[[], PassSums],
    loss: Callable[[], PassSums],
) -> list[Pass]:
    """The full model first, then every smaller k under every renorm."""
    probe = RandomProbe(spec.seed) if "similarity" in measures else None
    found = [Pass(FULL, top_k, "native", Identity(), probe, full)]
    if "perplexity" not in measures:
        return found
    wanted = range(1, top_k) if spec.ks is None else sorted({k for k in spec.ks if k < top_k})
    for renorm in spec.renorms:
        for k in wanted:
            policy = KeepTopK(k, Renorm(renorm))
            found.append(Pass(f"k{k}-{renorm}", k, renorm, policy, None, loss))
    return found


def is_done(directory: Path, one: Pass, index: int) -> bool:
    """Whether a chunk of a pass is on disk."""
    return _files(directory, one, index)[0].exists()


def write_sums(directory: Path, one: Pass, index: int, sums: PassSums) -> None:
    """Put a chunk of a pass on disk."""
    sums_file, lens_file = _files(directory, one, index)
    rows = sums.lens_rows()
    if rows is not None:
        write_table(lens_file, rows)
    write_tensors(sums_file, sums.state())  # last: it says that the chunk is done


def joined(one: Pass, *, directory: Path) -> tuple[PassSums, pl.DataFrame | None]:
    """The sums of all chunks of a pass, and the lens's rows."""
    total, tables = one.make(), []
    for index in range(_num_chunks(directory, one)):
        sums_file, lens_file = _files(directory, one, index)
        total.merge_state(read_tensors(sums_file))
        if lens_file.exists():
            tables.append(pl.read_parquet(lens_file))
    return total, pl.concat(tables) if tables else None


def _num_chunks(directory: Path, one: Pass) -> int:
    return len(list((directory / STATE).glob(f"{one.name}-*.safetensors")))


def _files(directory: Path, one: Pass, index: int) -> tuple[Path, Path]:
    stem = directory / STATE / f"{one.name}-{index:05d}"
    return stem.with_suffix(".safetensors"), stem.with_suffix(".parquet")
