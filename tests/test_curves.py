"""Curves of planted records: fitted, ranked within one run only, with every failure kept and every picture drawn."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from harness import catalogue, curves
from harness.cell import OK, Cell, Record

LENGTHS = (16, 32, 64)


def record(
    subject: str, n: int, values: dict | None = None, outcome: str = OK, note: str = "", run: str = "a", **asked
) -> Record:
    spec, _, name = subject.partition("/")
    implementation, _, variant = name.partition(":")
    settings = {"form": "forward", "batch": 1, "length": n, "round": 0} | asked
    seed, case, dtype = settings.pop("seed", 0), settings.pop("case", "plain"), settings.pop("dtype", "float32")
    cell = Cell("speed", spec, implementation, variant, case, dtype, seed=seed, settings=settings)
    return Record(cell, outcome, values or {}, note, {}, "machine", {}, 1.0, "2026-01-01", run)


def timed(subject: str, power: float = 1.0, times: float = 1e-6, noise: float = 0.0, run: str = "a", **asked) -> list[Record]:
    return [
        record(subject, n, {"seconds": [times * n**power * (1 + noise * (i - 4)) for i in range(9)]}, run=run, **asked)
        for n in LENGTHS
    ]


def test_rounds_are_joined_in_their_order_and_lengths_sorted():
    mixed = [record("rotary/pairs", n, {"seconds": [n + number / 10]}, round=number) for number in (1, 0) for n in (64, 16)]
    (curve,) = curves.of(mixed)
    assert curve.samples("seconds") == {16: [16.0, 16.1], 64: [64.0, 64.1]}
    assert list(curve.good) == [16, 64]


def test_what_is_asked_otherwise_is_another_curve():
    asked = [{}, {"form": "step"}, {"case": "causal"}, {"dtype": "bfloat16"}, {"batch": 4}]
    found = curves.of([r for changes in asked for r in timed("attention/plain", **changes)])
    assert len(found) == len(asked)
    assert len({curve.question for curve in found}) == len(asked)


def test_language_models_are_asked_the_same_and_operators_apart():
    of_each = [
        timed("transformer_rope/torch_sdpa"),
        timed("retnet/torch_parallel"),
        timed("rotary/pairs"),
        timed("retention/parallel"),
    ]
    groups = curves.grouped(curves.of([r for each in of_each for r in each]))
    assert {name: [curve.name for curve in group] for name, group in groups.items()} == {
        curves.MODELS: ["retnet/torch_parallel", "transformer_rope/torch_sdpa"],
        "retention": ["parallel"],
        "rotary": ["pairs"],
    }


def test_the_best_of_one_run_and_no_other():
    slow, fast = timed("rotary/pairs", times=3e-6), timed("rotary/complex", times=1e-6)
    elsewhere = timed("rotary/complex", times=1e-9, run="b", seed=1)
    found = curves.of([*slow, *fast, *elsewhere])
    pairs, complex_ = (next(c for c in found if c.name == name) for name in ("pairs", "complex"))
    assert curves.standing(pairs, "seconds", found, 64) == pytest.approx(3.0), "not 3000: that was another run"
    assert curves.standing(complex_, "seconds", found, 64) == pytest.approx(1.0)
    alone = curves.of([*slow, *elsewhere])
    assert all(curves.standing(curve, "seconds", alone, 64) is None for curve in alone), "one alone is not the best"
    assert curves.standing(pairs, "seconds", found, 128) is None


def test_the_best_is_of_those_who_were_asked_the_same():
    other = timed("rotary/complex", times=1e-9, batch=4)
    found = curves.of([*timed("rotary/pairs"), *other])
    assert all(curves.standing(curve, "seconds", found, 64) is None for curve in found)


def test_nothing_is_no_multiple_of_nothing_but_of_itself():
    some, nothing = ([record(f"rotary/{name}", 64, {"peak_bytes": size})] for name, size in (("pairs", 8), ("complex", 0)))
    best, other = found = curves.of([*some, *nothing])
    assert curves.standing(best, "peak_bytes", found, 64) == 1.0
    assert curves.standing(other, "peak_bytes", found, 64) is None, "it takes more than nothing, but how many times as much?"


def test_growth_is_fitted_where_all_three_lengths_were_measured():
    (curve,) = curves.of(timed("rotary/pairs", power=2.0, noise=0.001))
    assert curve.fitted("seconds").exponent == pytest.approx(2.0)
    assert curves.told(curve.fitted("seconds")).startswith("2.00 (")
    assert curves.verdict(curve.fitted("seconds"), "N") == "refuted: it grows faster"
    assert curves.verdict(curve.fitted("seconds"), "") is None, "nothing is declared, and nothing said"
    (two,) = curves.of(timed("rotary/pairs")[:2])
    assert two.fitted("seconds") is None
    assert curve.fitted("peak_bytes") is None


def test_growth_is_of_one_run_alone():
    quiet = timed("rotary/pairs")
    busy = [record("rotary/pairs", n, {"seconds": [4e-6 * n] * 9}, run="b") for n in (128, 256)]
    (curve,) = curves.of([*quiet, *busy])
    assert curve.fitted("seconds").lengths == LENGTHS
    assert curve.fitted("seconds").exponent == pytest.approx(1.0), "times of a busy machine are held against those of a quiet one"
    again = [replace(r, run="b") for r in timed("rotary/pairs", round=1)]
    (curve,) = curves.of([*quiet, *again, *busy])
    assert curve.fitted("seconds").lengths == (64, 128, 256), "the run that went furthest says how it grows"
    (counted,) = curves.of([record("rotary/pairs", n, {"peak_bytes": 8 * n}, run=f"run {n}") for n in LENGTHS])
    assert counted.fitted("peak_bytes").exponent == pytest.approx(1.0), "what is counted hangs on no run"


def test_fewer_samples_at_one_length_shorten_the_others():
    records = [record("rotary/pairs", n, {"seconds": [1e-6 * n] * count}) for n, count in zip(LENGTHS, (9, 9, 7), strict=True)]
    (curve,) = curves.of(records)
    assert curve.fitted("seconds").exponent == pytest.approx(1.0)


def test_an_exact_number_stands_alone():
    (curve,) = curves.of([record("rotary/pairs", n, {"peak_bytes": 8 * n}) for n in LENGTHS])
    assert curves.told(curve.fitted("peak_bytes")) == "1.00"
    assert curves.between(2.0, None, ".1f") == curves.between(2.0, (2.0, 2.0), ".1f") == "2.0"


def test_notes_say_how_and_where_it_failed_once_for_all_lengths():
    failing = [record("rotary/pairs", n, outcome="timed_out", note="after 300 s") for n in (32, 64)]
    (whole,) = curves.of([record("rotary/pairs", n, outcome="unsupported", note="needs a GPU\nmore") for n in LENGTHS])
    assert whole.note == "unsupported: needs a GPU"
    (part,) = curves.of([*timed("rotary/pairs")[:1], *failing])
    assert part.note == "timed out: after 300 s (at 32, 64)"
    (two,) = curves.of([*timed("rotary/pairs")[:1], failing[0], record("rotary/pairs", 64, outcome="crashed", note="")])
    assert two.note == "timed out: after 300 s; crashed (at 32, 64)"
    (alike,) = curves.of([record("rotary/pairs", n, outcome="wrong", note=f"out[n={n}] is -0.{n}") for n in (64, 16, 32)])
    assert alike.note == "wrong: out[n=64] is -0.64", "what differs by numbers alone is said of the longest"
    assert curves.of(timed("rotary/pairs"))[0].note == ""
    (blank,) = curves.of([record("rotary/pairs", 32, outcome="wrong", note="\n  out is 1\nmore")])
    assert blank.note == "wrong: out is 1"


def test_a_ratio_with_the_widest_that_intervals_allow():
    assert curves.ratio([2.0], [4.0]) == (0.5, 0.5, 0.5)
    middle, low, high = curves.ratio([float(i) for i in range(1, 10)], [5.0] * 9)
    assert (middle, low, high) == (1.0, 2 / 5, 8 / 5)
    assert curves.ratio([], [1.0]) is None
    assert curves.ratio([1.0], [0.0]) is None
    assert curves.ratio([1.0], [0.0, 1.0, 2.0]) == (1.0, 0.5, math.inf)


def test_declared_growth_of_models_is_that_of_their_papers():
    (rope,) = curves.of(timed("transformer_rope/torch_sdpa"))
    assert (rope.declared("time"), rope.declared("state")) == ("N^2", "")
    (step,) = curves.of(timed("retnet/torch_parallel", form="step"))
    assert (step.declared("time"), step.declared("state")) == ("1", "1")


def test_declared_growth_of_an_operator_is_that_of_its_file():
    (forward,) = curves.of(timed("retention/recurrent"))
    (step,) = curves.of(timed("retention/chunkwise:chunk_64", form="step"))
    assert forward.declared("time") == catalogue.find("implementation", "retention/recurrent").facts["grows"]["time"] == "N"
    assert step.declared("time") == "1"
    assert step.declared("memory") == "", "what is declared is the peak of the whole, not that of a step"


def test_declared_growth_of_a_file_of_one_s_own_is_that_of_the_file_while_it_is_there(tmp_path: Path):
    (tmp_path / "recurrent.py").write_text('grows = {"time": "N^2"}\n')
    own = [replace(r, cell=replace(r.cell, implementation=str(tmp_path / "recurrent.py"))) for r in timed("retention/recurrent")]
    mine, registered = sorted(curves.of([*timed("retention/recurrent"), *own]), key=lambda curve: "py" not in curve.subject)
    assert (mine.name, registered.name) == ("recurrent.py", "recurrent"), "no row is of both"
    assert (mine.declared("time"), mine.declared("memory"), registered.declared("time")) == ("N^2", "", "N")
    (tmp_path / "recurrent.py").unlink()
    assert mine.declared("time") == "", "a table is made of what is stored"


def test_pictures_have_a_panel_for_each_question_and_no_empty_one():
    many = [r for i in range(12) for r in timed(f"rotary/kind_{i}", times=(i + 1) * 1e-6, noise=0.02)]
    failing = [record("rotary/pairs", 16, outcome="crashed", form="training")]
    models = timed("retnet/torch_parallel", form="step")
    drawn = curves.figures(curves.of([*many, *failing, *models]), "seconds", "milliseconds", 1000)
    assert set(drawn) == {"rotary", curves.MODELS}
    panels = [axis for axis in drawn["rotary"].axes if axis.get_visible()]
    assert [axis.get_title() for axis in panels] == ["forward, float32 (1)", "forward, float32 (2)"]
    assert [len(axis.get_legend().get_texts()) for axis in panels] == [curves.PER_PANEL, 12 - curves.PER_PANEL]
    colours = {
        line.get_color() for axis in panels for line in axis.lines if len(line.get_xdata()) == 3 and line.get_linewidth() == 1
    }
    assert len(colours) == 12, "no two implementations look alike"
    assert panels[0].get_xscale() == panels[0].get_yscale() == "log"


def test_lengths_stand_on_the_axis_as_they_are():
    drawn = curves.figures(curves.of(timed("rotary/pairs")), "seconds", "milliseconds", 1000)
    (axis,) = drawn["rotary"].axes
    assert [label.get_text() for label in axis.get_xticklabels()] == ["16", "32", "64"]


def test_a_panel_names_its_case_where_there_are_several():
    several = [*timed("attention/plain", case="plain"), *timed("attention/plain", case="causal", batch=4)]
    drawn = curves.figures(curves.of(several), "seconds", "milliseconds", 1000)
    panels = [axis.get_title() for axis in drawn["attention"].axes if axis.get_visible()]
    assert panels == ["causal, forward, float32, batch 4", "plain, forward, float32"]


def test_nothing_measured_is_no_picture():
    assert curves.figures(curves.of([record("rotary/pairs", 16, outcome="crashed")]), "seconds", "s") == {}
    assert curves.figures(curves.of(timed("rotary/pairs")[:1]), "seconds", "s") == {}, "one length is no curve"
