"""Tables of made variants."""

from __future__ import annotations

from inferplan.reports.tables import plain
from inferplan.reports.variant_tables import derived_table, fits_table, refusals_table
from inferplan.spec.derivation import Derived, Distance, Fit


def test_what_cannot_be_said_is_a_dash_and_failures_are_dim() -> None:
    made = Derived("s", "v-int8", "v", "int8-static", {}, "made", "", 4096, 1024, Distance(64, 0.5, 0.01, 0.9, None))
    other = Derived("s", "v-side8", "v", "param", {}, "made", "", 4096, None, Distance(64, None, None, None, 0.5))
    failed = Derived("s", "v-fp16", "v", "fp16", {}, "failed", "no", 4096)
    table = derived_table([made, other, failed])
    assert table.rows[0] == ["s=v-int8", "1.00 KiB", "25.0 %", "0.5", "0.01", "90.0 %", "made"]
    assert table.rows[1] == ["s=v-side8", "-", "-", "-", "-", "50.0 %", "made"]
    assert table.rows[2] == ["s=v-fp16", "-", "-", "-", "-", "-", "failed"]
    assert table.dim == {2}


def test_rows_fit_a_terminal() -> None:
    made = Derived(
        "read", "resnet-m-int8s", "resnet-m", "int8-static", {}, "current", "", 10**9, 10**8,
        Distance(64, 1.2e-7, 1.2e-7, 1.0, 1.0),
    )  # fmt: skip
    assert max(len(line) for line in plain(derived_table([made])).splitlines()) <= 80


def test_reasons_are_said_once() -> None:
    names = ["a", "b", "c", "d"]
    fits = [Fit("s", name, recipe, "no weights") for name in names for recipe in ("int8-dynamic", "int8-static")]
    fits.append(Fit("s", "a", "fp16"))
    assert refusals_table(fits).rows == [["int8-dynamic int8-static", "no weights", "s=a, s=b, s=c and 1 more"]]
    assert fits_table(fits).rows[:2] == [["s=a", "fp16"], ["s=b", "-"]]
