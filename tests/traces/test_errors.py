"""Every way a trace can be wrong, each with its message."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from moe_lens.errors import TraceError
from moe_lens.traces import TraceManifest, read_trace, write_trace
from tests.stats.cases import event, random_batch, tokens, without_weights
from tests.traces.test_round_trip import DOMAINS, MANIFEST

KEY = "moe_lens.trace"


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "t.parquet"
    write_trace(path, random_batch(1, 8), manifest=MANIFEST, domains=DOMAINS)
    return path


def rewrite(path: Path, rows: pl.DataFrame, **changes: object) -> None:
    manifest = json.loads(pl.read_parquet_metadata(path)[KEY]) | changes
    rows.write_parquet(path, metadata={KEY: json.dumps(manifest)})


def spoil(path: Path, column: str, value: object, row: int = 4) -> None:
    """Write the trace again with one value of one row changed."""
    rows = pl.read_parquet(path)
    here = pl.int_range(pl.len()) == row
    changed = pl.when(here).then(pl.lit(value, dtype=rows.schema[column])).otherwise(column)
    rewrite(path, rows.with_columns(changed.alias(column)))


def read_all(path: Path) -> None:
    for _ in read_trace(path).events():
        pass


def full_row(path: Path) -> int:
    """A row whose slots are all active."""
    return int((pl.read_parquet(path)["num_active"] == 3).arg_max() or 0)


def place(path: Path, row: int) -> str:
    found = pl.read_parquet(path).row(row, named=True)
    return f"document {found['document']}, token {found['token']}, layer {found['layer']}: "


def test_an_expert_out_of_range(good: Path) -> None:
    spoil(good, "expert_0", 9)
    with pytest.raises(TraceError, match=place(good, 4) + "expert 9, but experts are 0 to 6"):
        read_all(good)


def test_an_expert_twice(good: Path) -> None:
    row = full_row(good)
    spoil(good, "expert_1", pl.read_parquet(good)["expert_0"][row], row=row)
    with pytest.raises(TraceError, match=place(good, row) + "the token lists an expert twice"):
        read_all(good)


def test_an_inactive_slot_may_repeat_an_expert(good: Path) -> None:
    row = int((pl.read_parquet(good)["num_active"] == 1).arg_max() or 0)
    spoil(good, "expert_1", pl.read_parquet(good)["expert_0"][row], row=row)
    read_all(good)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite(good: Path, value: float) -> None:
    spoil(good, "weight_0", value)
    with pytest.raises(TraceError, match=place(good, 4) + rf"weight {value} .* is not finite"):
        read_all(good)


def test_a_weight_in_an_inactive_slot(good: Path) -> None:
    spoil(good, "num_active", 0, row=full_row(good))
    with pytest.raises(TraceError, match="in an inactive slot; the first num_active slots"):
        read_all(good)


def test_more_active_slots_than_slots(good: Path) -> None:
    spoil(good, "num_active", 4)
    with pytest.raises(TraceError, match=place(good, 4) + "4 active slots of 3"):
        read_all(good)


def test_a_null(good: Path) -> None:
    spoil(good, "weight_2", None)
    with pytest.raises(TraceError, match=place(good, 4) + "column 'weight_2' is null"):
        read_all(good)


@pytest.mark.parametrize("row", [0, 4, 23])
def test_a_token_without_one_of_its_layers(good: Path, row: int) -> None:
    rows = pl.read_parquet(good)
    found = rows.row(row, named=True)
    rewrite(good, rows.filter(pl.int_range(pl.len()) != row))
    left = [layer for layer in (1, 2, 4) if layer != found["layer"]]
    where = f"document {found['document']}, token {found['token']}: rows of layers "
    listed = str(left).replace("[", r"\[").replace("]", r"\]")
    with pytest.raises(TraceError, match=where + listed + r", but every token needs"):
        read_all(good)


def test_rows_in_another_order(good: Path) -> None:
    rewrite(good, pl.read_parquet(good).sort("layer", "token"))
    with pytest.raises(TraceError, match="sort the rows by document, token, layer"):
        read_all(good)


def test_rows_of_two_tokens_that_are_mixed_up(good: Path) -> None:
    rows = pl.read_parquet(good)
    order = [3, *range(1, 3), 0, *range(4, len(rows))]
    rewrite(good, rows[order])
    with pytest.raises(TraceError, match="every token needs one row for each of the layers"):
        read_all(good)


@pytest.mark.parametrize("column", ["document", "layer", "expert_2", "weight_1", "domain"])
def test_a_missing_column(good: Path, column: str) -> None:
    rewrite(good, pl.read_parquet(good).drop(column))
    with pytest.raises(TraceError, match=f"column '{column}' is missing; .* top_k 3"):
        read_trace(good)


@pytest.mark.parametrize(
    ("column", "dtype", "kind"),
    [
        ("layer", pl.Float64, "integers"),
        ("weight_1", pl.Int64, "floating-point numbers"),
        ("domain", pl.Int64, "strings"),
    ],
)
def test_a_column_of_another_kind(
    good: Path, column: str, dtype: type[pl.DataType], kind: str
) -> None:
    rows = pl.read_parquet(good).with_columns(pl.lit(1, dtype=dtype).alias(column))
    rewrite(good, rows)
    with pytest.raises(TraceError, match=f"column '{column}' holds .*; it must hold {kind}"):
        read_trace(good)


def test_an_unknown_schema_version(good: Path) -> None:
    rewrite(good, pl.read_parquet(good), schema_version=2)
    with pytest.raises(TraceError, match="schema version 2, but this moe-lens reads version 1"):
        read_trace(good)


def test_a_manifest_that_does_not_fit(good: Path) -> None:
    rewrite(good, pl.read_parquet(good), top_k="three", surprise=1)
    with pytest.raises(TraceError, match=r"does not fit schema version 1 .*surprise"):
        read_trace(good)
    pl.read_parquet(good).write_parquet(good, metadata={KEY: "{"})
    with pytest.raises(TraceError, match="is not JSON"):
        read_trace(good)
    pl.read_parquet(good).write_parquet(good, metadata={KEY: "[]"})
    with pytest.raises(TraceError, match="is not a JSON object"):
        read_trace(good)


def test_an_empty_trace(good: Path) -> None:
    rewrite(good, pl.read_parquet(good).clear())
    with pytest.raises(TraceError, match="the trace is empty"):
        read_trace(good)


def test_a_truncated_file(good: Path) -> None:
    good.write_bytes(good.read_bytes()[:-100])
    with pytest.raises(TraceError, match="the file is cut short"):
        read_trace(good)


def test_a_corrupt_footer(good: Path) -> None:
    whole = good.read_bytes()
    good.write_bytes(whole[:-60] + b"\xff" * 52 + whole[-8:])
    with pytest.raises(TraceError, match="cannot be read"):
        read_trace(good)


def test_a_file_that_is_not_parquet(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("document,token\n")
    with pytest.raises(TraceError, match=r"t\.csv: not a Parquet file"):
        read_trace(path)
    path.write_bytes(b"")
    with pytest.raises(TraceError, match="not a Parquet file"):
        read_trace(path)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="no such file"):
        read_trace(tmp_path / "t.parquet")


def test_an_unknown_domain(good: Path) -> None:
    with pytest.raises(TraceError, match="no domain 'poetry'; the trace has code, prose"):
        next(read_trace(good).events(domains=["poetry"]))


def test_another_number_of_experts(good: Path) -> None:
    with pytest.raises(TraceError, match=r"num_experts 8 was given, .* recorded with 7"):
        read_trace(good, num_experts=8)


def test_batches_of_no_tokens(good: Path) -> None:
    with pytest.raises(ValueError, match="batch_tokens 0"):
        next(read_trace(good).events(batch_tokens=0))


def test_a_manifest_is_checked() -> None:
    with pytest.raises(TraceError, match=r"layers \[2, 1\]: list the MoE layers once"):
        TraceManifest(model="m", num_experts=4, top_k=2, layers=(2, 1))
    with pytest.raises(TraceError, match="top_k 5 with 4 experts"):
        TraceManifest(model="m", num_experts=4, top_k=5, layers=(1,))
    with pytest.raises(TraceError, match="expert columns hold ids up to 65535"):
        TraceManifest(model="m", num_experts=70_000, top_k=5, layers=(1,))


SMALL = TraceManifest(model="m", num_experts=4, top_k=2, layers=(1,))


def write(tmp_path: Path, *events: object, manifest: TraceManifest = SMALL) -> None:
    write_trace(tmp_path / "t.parquet", events, manifest=manifest, domains={0: "all"})


def test_writing_nothing(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="no token was recorded"):
        write(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_writing_half_a_batch(tmp_path: Path) -> None:
    manifest = TraceManifest(model="m", num_experts=4, top_k=2, layers=(1, 2))
    with pytest.raises(ValueError, match="have not reached the last MoE layer 2"):
        write(tmp_path, event([[0, 1]]), manifest=manifest)
    assert list(tmp_path.iterdir()) == []


def test_writing_another_model(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"layer 1 has 5 experts and 2 slots, .* says 4 and 2"):
        write(tmp_path, event([[0, 1]], num_experts=5))


def test_writing_unknown_weights_as_weights(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"every weight is 0, .* has_weights=False"):
        write(tmp_path, without_weights(event([[0, 1]])))


def test_writing_a_document_without_a_domain(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="document 7 has no entry in `domains`"):
        write(tmp_path, event([[0, 1]], rows=tokens([3], document=[7])))


def test_writing_some_vocabulary_ids(tmp_path: Path) -> None:
    one, other = event([[0, 1]]), event([[0, 1]], rows=tokens([-1], first=1))
    with pytest.raises(TraceError, match="some tokens have a vocabulary id and others none"):
        write(tmp_path, one, other)


def test_writing_into_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"the folder .* does not exist"):
        write(tmp_path / "a", event([[0, 1]]))
