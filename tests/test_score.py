"""A card says where an implementation stands: its own number, best and median of the field, its place; and what is missing."""

import subprocess
import sys
from pathlib import Path

import pytest

from harness import machine, score
from harness.catalogue import NotFound
from harness.cell import Cell, Record
from harness.store import Store

ROOT = Path(__file__).parents[1]
SMOKE = {"scale": "default", "threads": 1, "form": "forward", "batch": 1}


def record(suite: str, subject: str, values: dict, outcome: str = "ok", **told) -> Record:
    spec, _, own = subject.partition("/")
    name, _, variant = own.partition(":")
    about = {"case": "plain", "dtype": "float32", "settings": {}} | {
        k: told.pop(k) for k in ("case", "dtype", "settings") if k in told
    }
    cell = Cell(suite, spec, name, variant, **about)
    rest = {"note": "", "digests": {}, "machine": "here", "versions": {}, "time_s": 1.0, "at": "2026-01-01T00:00", "run": "r"}
    return Record(cell, outcome, values, **{**rest, **told})


def timed(subject: str, length: int, seconds: list[float], **told) -> Record:
    return record("speed", subject, {"seconds": seconds}, settings={**SMOKE, "length": length}, **told)


def judged(subject: str, worst: float, grade: str = "A", **told) -> Record:
    return record("correctness", subject, {"score": worst, "grade": grade}, settings={"family": "normal"}, **told)


def rows(subjects: list[str], records: list[Record], title: str) -> list[dict]:
    found = score.tables(subjects, records)
    (frame,) = [frame for name, frame in found.items() if name.startswith(title)]
    return frame.to_dict("records")


def test_correctness_has_the_worst_score_beside_the_field():
    records = [judged("rotary/pairs", 0.2), judged("rotary/pairs", 0.5, "B", case="far"), judged("rotary/complex", 0.25)]
    (row,) = rows(["rotary/pairs"], [*records, judged("rotary/triton_rotary", 0.75), judged("xpos/complex", 0.01)], "Correctness")
    assert (row["its own"], row["best"], row["by"], row["median"]) == (0.5, 0.25, "rotary/complex", 0.5)
    assert (row["x best"], row["place"], row["grade"], row["cells"]) == (2, "2 of 3", "B", "2 ok")


def test_who_fails_has_no_number_and_no_place():
    bad = judged("rotary/pairs", 9.0, case="far", outcome="wrong", note="  out[0] is 1\n  more")
    records = [judged("rotary/pairs", 0.2), bad, judged("rotary/complex", 0.25)]
    (row,) = rows(["rotary/pairs"], records, "Correctness")
    assert row["its own"] is None
    assert "place" not in row
    assert row["cells"] == "1 ok, 1 wrong"
    (failure,) = rows(["rotary/pairs"], records, "What came to no number")
    assert (failure["outcome"], failure["in"], failure["note"]) == ("wrong", "far", "out[0] is 1")
    (rival,) = rows(["rotary/complex"], records, "Correctness")
    assert rival["place"] == "1 of 1", "a failing rival is no rival"


def test_speed_is_that_of_the_longest_length_and_of_the_same_run():
    records = [timed("rotary/pairs", 128, [0.009]), timed("rotary/pairs", 512, [0.002, 0.004, 0.003])]
    records += [timed("rotary/complex", 512, [0.0015]), timed("rotary/complex", 2048, [0.1])]
    records += [timed("rotary/triton_rotary", 512, [0.000001], run="another day")]
    (row,) = rows(["rotary/pairs"], records, "Speed")
    assert row["question"] == "forward, at 512: milliseconds"
    assert (row["its own"], row["best"], row["by"], row["x best"], row["place"]) == (3.0, 1.5, "rotary/complex", 2.0, "2 of 2")


def test_memory_has_peaks_states_and_weights():
    values = {"peak_bytes": 2048, "state_bytes": 1024, "weights_bytes": 4096, "flops": 1.0}
    settings = {**SMOKE, "form": "step", "length": 512}
    found = rows(["rotary/pairs"], [record("memory", "rotary/pairs", values, settings=settings)], "Memory")
    assert [(row["question"].partition(": ")[2], row["its own"]) for row in found] == [
        ("KiB at the peak", 2),
        ("KiB from step to step", 1),
        ("KiB of weights", 4),
    ]


def test_long_context_at_once_and_sixteen_times_the_training_length():
    def told(subject: str, near: float, far: object) -> Record:
        values = {"length": 128, "bits_per_byte": {"128": [near], "2048": far}, "recall": {"128": [1.0, 0.5], "2048": [0.0]}}
        return record("long-context", subject, values, case="extrapolation", settings={"scale": "default", "text": ""})

    records = [told("retnet/torch_parallel", 2.0, [2.5, 3.5]), told("lstm_lm/torch_lstm", 1.5, "cannot")]
    found = {row["question"]: row for row in rows(["retnet/torch_parallel"], records, "Long context")}
    near, far = (found[f"bits per byte at {times} x the training length"] for times in (1, 16))
    assert (near["its own"], near["best"], near["place"]) == (2.0, 1.5, "2 of 2")
    assert (far["its own"], far["place"]) == (3.0, "1 of 1")
    assert found["share recalled at 1 x the training length"]["its own"] == 0.75


def test_long_context_tells_of_streams_and_memory_tasks():
    def asked(subject: str, case: str, values: dict) -> Record:
        return record("long-context", subject, values, case=case, settings={"scale": "default", "text": ""})

    blocks = {"bits": [[4.0, 4.0]] * 3 + [[1.0, 2.0]], "state_bytes": [10, 20, 30, 40]}
    records = [
        asked("rmt/torch_sdpa", "reason", {"accuracy": {"4": [1.0], "16": [1.0, 0.0]}}),
        asked("rmt/torch_sdpa", "streaming", {**blocks, "stopped": ""}),
        asked("lstm_lm/torch_lstm", "streaming", {**blocks, "stopped": "its state grows"}),
        asked("rmt/torch_sdpa", "depth", {"length": 4, "recall": {"4": {"0": [9.0]}, "64": {"0": [1.0], "0.5": [0.0]}}}),
    ]
    found = {row["question"]: (row["its own"], row["place"]) for row in rows(["rmt/torch_sdpa"], records, "Long context")}
    assert found == {
        "depth: share recalled at 16 x the training length": (0.5, "1 of 1"),
        "streaming: bits per byte over the last quarter": (1.5, "1 of 1"),
        "streaming: bytes carried at the end": (40.0, "1 of 1"),
        "reason: share right at 16 segments": (0.5, "1 of 1"),
    }, "what was stopped is in no field, and the last blocks and segments count"


def test_of_scores_in_context_more_is_better():
    def told(subject: str, right: float) -> Record:
        values = {"score": {"trained": [right], "exact solver": [1.0], "context-blind": [0.0]}}
        return record("in-context-learning", subject, values, case="mqar", settings={"scale": "default"})

    records = [told("retnet/torch_parallel", 0.2), told("lstm_lm/torch_lstm", 0.6)]
    (row,) = rows(["retnet/torch_parallel"], records, "In-context learning")
    assert (row["question"], row["best"], row["place"]) == ("mqar", 0.6, "2 of 2")


def test_of_kernels_the_worst_for_each_target():
    kernel = {"registers": 40, "spills": 0, "shared_bytes": 2048, "tensor_core": 3}
    values = {"one": kernel, "two": {**kernel, "registers": 60, "tensor_core": 0}}
    found = rows(
        ["rotary/triton_rotary"], [record("kernels", "rotary/triton_rotary", values, settings={"target": "sm_90"})], "Kern"
    )
    assert [row["its own"] for row in found] == [60, 0, 2]
    assert (found[0]["kernels"], found[0]["with tensor cores"]) == (2, 1)


def test_what_is_not_stored_comes_with_its_command():
    found = {row["suite"]: row["run it"] for row in rows(["rotary/pairs"], [judged("rotary/pairs", 0.2)], "Nothing is stored")}
    assert found == {s: f"harness run suite={s} spec=rotary impl=pairs" for s in ("memory", "speed")}, "it is no language model"


def test_machines_are_not_mixed():
    with pytest.raises(ValueError, match="records of 2 machines are not mixed: here, there"):
        score.tables(["rotary/pairs"], [judged("rotary/pairs", 0.2), judged("rotary/complex", 0.2, machine="there")])


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("attention/torch_sdpa:flash", ["attention/torch_sdpa:flash"]),
        ("attention/torch_sdpa", ["attention/torch_sdpa:math", "attention/torch_sdpa:flash"]),
        ("torch_sdpa", ["attention/torch_sdpa:math", "attention/torch_sdpa:flash", "hat/torch_sdpa"]),
    ],
)
def test_a_name_may_leave_out_spec_and_variant(name: str, found: list[str]):
    known = ["attention/plain", "attention/torch_sdpa:math", "attention/torch_sdpa:flash", "hat/torch_sdpa"]
    assert score.resolved(name, known) == found


def test_every_registered_name_is_known():
    assert {"attention/torch_sdpa:flash", "rotary/pairs"} <= set(score.registered())
    with pytest.raises(NotFound):
        score.resolved("rotary/pears", score.registered())


def said(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "harness", "score", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False, timeout=120)


def test_the_command_prints_a_card_and_refuses_what_is_not_there(tmp_path: Path):
    store = Store(tmp_path / "results")
    store.append(judged("rotary/pairs", 0.2, machine=machine.name()))
    store.append(judged("rotary/complex", 0.1, machine="elsewhere"))
    card = said("pairs", "format=csv", cwd=tmp_path)
    assert card.returncode == 0
    assert "rotary/pairs,float32,0.2,0.2,itself,0.2" in card.stdout, "a record of another machine has no part in it"
    wrong = said("rotary/pears", cwd=tmp_path)
    assert (wrong.returncode, wrong.stderr.splitlines()[0]) == (
        2,
        "harness: no implementation named 'rotary/pears'. Did you mean 'rotary/pairs'?",
    )
    with pytest.raises(NotFound, match=r"rotary is a spec: rotary/a, rotary/b compute it\.\n  Try: harness score rotary/a"):
        score.resolved("rotary", ["rotary/a:x", "rotary/a:y", "rotary/b"])
    nothing = said("rotary/complex", cwd=tmp_path)
    assert nothing.returncode == 2
    assert nothing.stderr == (
        f"harness: nothing is stored of rotary/complex on {machine.name()}.\n"
        "  machines with records of it: elsewhere (say machine=NAME)\n"
        "  Measure it: harness run suite=correctness spec=rotary impl=complex\n"
    )
    unknown = said("rotary/pairs", "suite=speed", cwd=tmp_path)
    assert (unknown.returncode, unknown.stderr) == (
        2,
        "harness: `score` takes no 'suite'; it takes format, out, machine and results\n",
    )


def test_whole_numbers_stay_whole_beside_others():
    about = {"scale": "default", "threads": 1, "form": "step", "batch": 1, "length": 128}
    values = {"peak_bytes": 16385 * 1024, "state_bytes": 12_345_678, "weights_bytes": 1536}
    found = {
        row["question"].rpartition(": ")[2]: row["its own"]
        for row in rows(["rotary/pairs"], [record("memory", "rotary/pairs", values, settings=about)], "Memory")
    }
    assert {unit: str(value) for unit, value in found.items()} == {
        "KiB at the peak": "16385",
        "KiB from step to step": "12056",
        "KiB of weights": "1.5",
    }
