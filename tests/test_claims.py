"""Headline claims from planted curves: what lies on the claimed side of its bound shows, else it is refuted or not resolved."""

import pytest

from harness.cell import OK, Cell, Record
from harness.claims import Claim, Side, claimed, verdict
from harness.curves import Curve, of

SLOW, FAST = Side("attention/plain", "forward", case="causal"), Side("attention/torch_sdpa:flash", "forward", case="causal")


def records(subject: str, by_length: dict[int, list[float]], form: str = "forward", **changes) -> list[Record]:
    spec, _, name = subject.partition("/")
    implementation, _, variant = name.partition(":")
    said = {"case": "causal", "dtype": "float32", "batch": 1, "outcome": OK, "run": "run"} | changes
    return [
        Record(
            Cell(
                "speed",
                spec,
                implementation,
                variant,
                said["case"],
                said["dtype"],
                settings={"form": form, "length": n, "batch": said["batch"]},
            ),
            said["outcome"],
            {"seconds": samples},
            "",
            {},
            "machine",
            {},
            1.0,
            "2026-01-01",
            said["run"],
        )
        for n, samples in by_length.items()
    ]


def curves(*of_each: list[Record]) -> list[Curve]:
    return of([record for each in of_each for record in each])


def around(middle: float, noise: float = 0.01) -> list[float]:
    return [middle * (1 + noise * (i - 4) / 4) for i in range(9)]


def claim(more: Side = SLOW, less: Side = FAST, **bounds) -> Claim:
    return Claim("a sentence", "1234.56789", "so many times", more, less, **bounds)


def test_an_interval_that_ends_at_a_bound_is_not_beyond_it():
    assert [verdict(0.0, 0.0, above=0.0), verdict(-1.0, 0.0, above=0.0), verdict(0.0, 1.0, above=0.0)] == [
        "refuted",
        "refuted",
        "not resolved",
    ]
    assert [verdict(0.0, 1.0, below=0.0), verdict(-1.0, 0.0, below=0.0)] == ["refuted", "not resolved"]
    assert [verdict(1.0, 2.0, above=0.0, below=3.0), verdict(1.0, 3.0, above=0.0, below=3.0)] == ["shows", "not resolved"]


@pytest.mark.parametrize(
    ("slow", "noise", "said"),
    [(2.0, 0.01, "shows"), (0.5, 0.01, "refuted"), (1.0, 0.5, "not resolved"), (1.1, 0.3, "not resolved")],
)
def test_a_claim_that_something_is_above(slow: float, noise: float, said: str):
    found = curves(records("attention/plain", {64: around(slow, noise)}), records(FAST.subject, {64: around(1.0, noise)}))
    (row,) = claimed([claim(above=1.0)], found, "seconds")
    assert row["here"] == said
    assert row["ratio here"].startswith(f"{slow:.3g} (")
    assert row["of"] == "attention/plain forward at 64 over attention/torch_sdpa:flash forward at 64"


@pytest.mark.parametrize(("last", "said"), [(1.0, "shows"), (5.0, "refuted"), (1.2, "not resolved")])
def test_a_claim_that_something_stays_compares_a_curve_with_itself(last: float, said: str):
    long, short = Side("attention/plain", "step", case="causal"), Side("attention/plain", "step", case="causal", shortest=True)
    found = curves(records("attention/plain", {16: around(1.0, 0.05), 64: around(last, 0.05)}, form="step"))
    (row,) = claimed([claim(long, short, below=1.2)], found, "seconds")
    assert row["here"] == said
    assert row["of"] == "attention/plain step at 64 over attention/plain step at 16"


def test_one_length_is_no_growth():
    long, short = Side("attention/plain", "step", case="causal"), Side("attention/plain", "step", case="causal", shortest=True)
    assert (
        claimed([claim(long, short, below=1.2)], curves(records("attention/plain", {16: around(1.0)}, form="step")), "seconds")
        == []
    )


def test_the_longest_length_that_both_have():
    found = curves(
        records("attention/plain", {16: around(2.0), 32: around(3.0)}), records(FAST.subject, {16: around(1.0), 64: around(9.0)})
    )
    (row,) = claimed([claim(above=1.0)], found, "seconds")
    assert row["of"].count("at 16") == 2
    apart = curves(records("attention/plain", {32: around(3.0)}), records(FAST.subject, {64: around(9.0)}))
    assert claimed([claim(above=1.0)], apart, "seconds") == [], "no length that both have, and no claim"


def test_per_length_divides_both():
    long, short = Side("attention/plain", "forward", case="causal"), Side("attention/plain", "forward", "causal", shortest=True)
    found = curves(records("attention/plain", {16: around(1.0), 64: around(4.0)}))
    (row,) = claimed([claim(long, short, below=1.2, per_length=True)], found, "seconds")
    assert row["here"] == "shows"
    assert row["of"].endswith(", per token")
    (row,) = claimed([claim(long, short, below=1.2)], found, "seconds")
    assert row["here"] == "refuted"


def test_what_was_not_measured_or_failed_is_no_row():
    slow = records("attention/plain", {64: around(2.0)})
    assert claimed([claim(above=1.0)], curves(slow), "seconds") == []
    failed = records(FAST.subject, {64: []}, outcome="timed_out")
    assert claimed([claim(above=1.0)], curves(slow, failed), "seconds") == []
    assert claimed([claim(above=1.0)], curves(slow, records(FAST.subject, {64: around(1.0)})), "peak_bytes") == []
    other = records(FAST.subject, {64: around(1.0)}, dtype="bfloat16")
    assert claimed([claim(above=1.0)], curves(slow, other), "seconds") == [], "dtypes are not compared with one another"


def test_larger_batches_are_not_taken_for_single_ones():
    slow = records("attention/plain", {64: around(8.0)}, batch=8) + records("attention/plain", {64: around(2.0)})
    (row,) = claimed([claim(above=1.0)], curves(slow, records(FAST.subject, {64: around(1.0)})), "seconds")
    assert row["ratio here"].startswith("2 ")
    eight = curves(slow[:1], records(FAST.subject, {64: around(1.0)}))
    assert claimed([claim(above=1.0)], eight, "seconds") == [], "a batch of eight against one row"


def test_both_sides_are_of_one_run():
    slow, fast = records("attention/plain", {64: around(2.0)}), records(FAST.subject, {64: around(1.0)})
    loaded = records("attention/plain", {64: around(0.1)}, run="loaded")
    (row,) = claimed([claim(above=1.0)], curves(slow, fast, loaded), "seconds")
    assert row["ratio here"].startswith("2 "), "the time of another run is held against this one's"
    assert claimed([claim(above=1.0)], curves(loaded, fast), "seconds") == [], "never measured side by side"


def test_exact_numbers_have_no_interval():
    found = curves(records("attention/plain", {64: [3.0]}), records(FAST.subject, {64: [1.0]}))
    (row,) = claimed([claim(above=1.0)], found, "seconds")
    assert row["ratio here"] == "3"
