"""suite=speed: nothing wrong is timed, no clock and no time is believed that cannot be, and no failure leaves the table."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from harness import catalogue, ceilings, judge, plan, report, runner, work, worker
from harness.ceilings import Ceilings
from harness.cell import CRASHED, OK, UNSUPPORTED, WRONG, Cell, Record
from harness.implementation import Implementation

suite = catalogue.load(catalogue.find("suite", "speed").path)
HIGH = Ceilings(1, 1e13, 1e13, {"float32": 1e14, "bfloat16": 1e14, "float16": 1e14})
LOW = Ceilings(1, 1e3, 1e3, {"float32": 1e3, "bfloat16": 1e3, "float16": 1e3})
LAYER_NORM = '''"""Layer norm."""
import torch
gradients = True
def prepare(case):
    def run(x, weight, bias):
        {before}
        return torch.nn.functional.layer_norm(x, (case.d,), weight, bias){after}
    return run
'''


def cell(implementation: str = "torch_plain", spec: str = "layer_norm", variant: str = "", **asked: Any) -> Cell:
    case, dtype = asked.pop("case", "plain"), asked.pop("dtype", "float32")
    settings = {"scale": "smoke", "threads": 1, "form": "forward", "batch": 1, "length": 16, "round": 0} | asked
    return Cell("speed", spec, implementation, variant, case, dtype, settings=settings)


def mine(folder: Path, name: str = "mine", before: str = "pass", after: str = "") -> str:
    (folder / f"{name}.py").write_text(LAYER_NORM.format(before=before, after=after))
    return str(folder / f"{name}.py")


@pytest.fixture(autouse=True)
def high(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceilings, "here", lambda device, threads, anew=False: HIGH)


@pytest.mark.parametrize("form", ["forward", "training", "step"])
def test_what_is_right_has_its_samples_and_what_they_are_held_against(form: str):
    answer = worker.asked(cell("recurrent", "retention", form=form))
    assert answer.outcome == OK, answer.note
    values = answer.values
    assert 5 <= len(values["seconds"]) <= 40
    assert all(value > 0 for key in ("first_s", "prepare_s") for value in (values[key], *values["seconds"]))
    assert values["flops"] == 4 * 4 * 64 * 64 * (1 if form == "step" else 16) * (3 if form == "training" else 1)
    assert values["roofline_s"] == max(values["flops"] / 1e14, values["bytes"] / 1e13)
    assert values["ceilings"] == asdict(HIGH)
    assert values["score"] < 1


def test_a_language_model_of_no_paper_is_timed_too(tmp_path: Path):
    asked = {"spec": "language_model", "implementation": "running_mean"}
    forward = worker.asked(cell(**asked))
    assert (forward.outcome, forward.values["flops"]) == (OK, 0)
    assert worker.asked(cell(**asked, form="step")).outcome == OK
    assert worker.asked(cell(**asked, form="training")).note == "claims no gradients here"


def test_training_of_a_model_of_no_paper_goes_backward(tmp_path: Path):
    told = tmp_path / "told"
    (tmp_path / "mine.py").write_text(
        f'''"""A model of no paper."""
import torch
from torch import nn
gradients = True
class Told(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()
    @staticmethod
    def backward(ctx, d):
        open({str(told)!r}, "a").write("backward ")
        return d
class Model(nn.Module):
    def __init__(self, v, d):
        super().__init__()
        self.into, self.out = nn.Embedding(v, d), nn.Linear(d, v)
    def forward(self, ids):
        return self.out(Told.apply(self.into(ids)))
def prepare(case):
    return Model(case.v, case.d)
'''
    )
    answer = worker.asked(cell(str(tmp_path / "mine.py"), "language_model", form="training"))
    assert answer.outcome == OK, answer.note
    assert told.read_text().split().count("backward") > len(answer.values["seconds"])


def test_gradients_that_cancel_to_nothing_are_not_judged_by_their_own_size(tmp_path: Path):
    """A text of one segment: attention across segments sees one key, and its queries have no gradient but rounding."""
    asked = cell("torch_sdpa", "hat", form="training")
    honest = Implementation.of(asked)
    question = work.question(asked, honest.spec)
    for seed in (3, 264):  # of 300, where most rounding was left
        answer = judge.at_work(honest, replace(question, seed=seed), 0, honest.costed("asked", replace(question, seed=seed))[1])
        assert answer.outcome == OK, answer.note
    path = mine(tmp_path, after=" if case.n != 16 else Off.apply(x, weight, bias)")
    Path(path).write_text(
        Path(path).read_text()
        + """
class Off(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight, bias)
        return torch.nn.functional.layer_norm(x, weight.shape, weight, bias)
    @staticmethod
    def backward(ctx, d):
        with torch.enable_grad():
            x, weight, bias = (t.detach().requires_grad_() for t in ctx.saved_tensors)
            dx, dw, db = torch.autograd.grad(torch.nn.functional.layer_norm(x, weight.shape, weight, bias), (x, weight, bias), d)
        return dx, dw, db * 1.01
"""
    )
    answer = worker.asked(cell(path, form="training"))
    assert (answer.outcome, answer.note[:21]) == (WRONG, "not timed: bias.grad["), "a gradient that is a hundredth too large"


def test_what_is_wrong_is_not_timed_and_the_note_says_why_at_once(tmp_path: Path):
    answer = worker.asked(cell(mine(tmp_path, after=" + 1")))
    assert answer.outcome == WRONG
    assert "seconds" not in answer.values
    assert answer.note.startswith("not timed: out[b=")


def test_what_raises_only_without_gradients_is_told(tmp_path: Path):
    path = mine(tmp_path, before="assert torch.is_grad_enabled(), 'no graph, no answer'")
    (tmp_path / "mine.py").write_text((tmp_path / "mine.py").read_text().replace("gradients = True", "gradients = False"))
    answer = worker.asked(cell(path))
    assert (answer.outcome, "no graph, no answer" in answer.note) == (CRASHED, True)
    assert worker.asked(cell(path, form="training")).note == "claims no gradients here"


def test_two_files_of_one_name_are_judged_each(tmp_path: Path):
    for folder in ("good", "bad"):
        (tmp_path / folder).mkdir()
    good = mine(tmp_path / "good")
    bad = mine(tmp_path / "bad", after=" if case.n == 16 else 2 * x")  # wrong in the named case, right where it is timed
    assert [worker.asked(cell(path)).outcome for path in (good, bad)] == [OK, WRONG]


def test_faster_than_this_machine_can_be(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ceilings, "here", lambda device, threads, anew=False: LOW)
    answer = worker.asked(cell())
    assert (answer.outcome, answer.values) == (WRONG, {})
    assert answer.note.startswith("faster than this machine can be: ")


def test_ceilings_found_on_a_busy_machine_accuse_nobody(monkeypatch: pytest.MonkeyPatch):
    asked = []
    monkeypatch.setattr(ceilings, "here", lambda device, threads, anew=False: asked.append(anew) or (HIGH if anew else LOW))
    answer = worker.asked(cell())
    assert answer.outcome == OK, answer.note
    assert asked == [False, False, True]


def test_where_positions_end_and_where_kernels_are_interpreted():
    answer = worker.asked(cell("torch_sdpa", "transformer_learned", length=256))
    assert (answer.outcome, answer.note) == (UNSUPPORTED, "learned positions end at 128")
    pytest.importorskip("triton", reason="triton is an optional extra")
    answer = worker.asked(cell("triton_fused", variant="large_tiles"))
    assert (answer.outcome, "not trained or timed" in answer.note) == (UNSUPPORTED, True)


TIMES: dict[str, Any] = {"seconds": [0.1, 0.1], "prepare_s": 0.1, "first_s": 0.1, "whole_s": 1.0, "lost_s": 1e-5, "at_once": 1.0}


@pytest.mark.parametrize(
    ("told", "took", "complaint"),
    [
        ({}, 1.0, ""),
        ({}, 1.2, ""),
        ({}, 1.5, "its clock is not the judge's"),
        ({"whole_s": 0.1}, 1.0, "its clock is not the judge's"),
        ({"seconds": [0.9, 0.9]}, 1.0, "its clock is not the judge's"),
        ({"seconds": []}, 1.0, "no time"),
        ({"seconds": [0.1, 0.0]}, 1.0, "no time"),
        ({"seconds": [0.1, -1.0]}, 1.0, "no time"),
        ({"seconds": [float("nan")]}, 1.0, "no time"),
        ({"seconds": ["inf"]}, 1.0, "no time"),
        ({"first_s": float("inf")}, 1.0, "no time"),
        ({"lost_s": "nan"}, 1.0, "no time"),
        ({"lost_s": 0.005}, 1.0, ""),
        ({"lost_s": 0.1}, 1.0, "0.1 s that it does not count"),
        ({"lost_s": -0.1}, 1.0, "its clock is not the judge's"),
        ({"seconds": [0.001] * 9, "lost_s": 0.001}, 1.0, "0.001 s that it does not count"),
    ],
)
def test_a_clock_that_cannot_be(told: dict[str, Any], took: float, complaint: str):
    said = suite._clock_complaint(TIMES | told, took, "cpu")
    assert complaint in said
    assert bool(complaint) == bool(said)


def test_who_works_on_more_threads_than_it_was_given_is_named():
    said = suite._threads_complaint(TIMES | {"at_once": 1.8}, 1, "cpu")
    assert said == "it works on 1.8 threads at once where it was given 1; threads=0 gives it all cores"
    for told, threads, device in (({}, 2, "cpu"), ({}, 0, "cpu"), ({}, 1, "cuda"), ({"seconds": [1e-5]}, 1, "cpu")):
        assert not suite._threads_complaint(TIMES | {"at_once": 1.8} | told, threads, device)


def test_nobody_knows_what_will_be_timed(monkeypatch: pytest.MonkeyPatch):
    asked: list[Any] = []
    genuine = Implementation.costed
    monkeypatch.setattr(Implementation, "costed", lambda self, *words: asked.append(words) or genuine(self, *words))
    answers = [worker.asked(cell()) for _ in range(2)]
    seeds = {kind: [words[1].seed for words in asked if words[0] == kind] for kind in ("asked", "timed")}
    assert seeds["asked"] == [0, 0], "what is judged before is the same for all"
    assert seeds["timed"][0] != seeds["timed"][1]
    assert [answer.values["seed"] for answer in answers] == seeds["timed"], "what was asked can be asked again"


def test_what_is_wrong_every_other_time_is_found(tmp_path: Path):
    path = mine(tmp_path, before="case.n == 64 and calls.append(1)", after=" * (1 + (len(calls) > 3 and len(calls) % 2))")
    Path(path).write_text(Path(path).read_text().replace("gradients = True", "gradients, calls = False, []"))
    answer = worker.asked(cell(path, length=64))
    assert (answer.outcome, answer.note[:21]) == (WRONG, "timed it answers othe"), answer.note


def test_rounds_of_one_implementation_have_processes_of_their_own():
    cells = [(cell(length=length, round=number), {}) for number in (0, 1) for length in (16, 32, 64)]
    batches = runner._batches(cells, 1)
    assert [[asked.settings["round"] for asked, _ in batch] for batch in batches] == [[0, 0, 0], [1, 1, 1]]


def record(subject: str, n: int, seconds: list[float] | None = None, note: str = "", outcome: str = OK, **asked: Any) -> Record:
    spec, _, name = subject.partition("/")
    implementation, _, variant = name.partition(":")
    flops = asked.pop("flops", 1e6 * n)
    values = {"seconds": seconds, "first_s": 0.5, "prepare_s": 0.1, "flops": flops, "bytes": 1e5 * n, "roofline_s": 1e-3}
    values |= {"score": 0.5, "ceilings": asdict(HIGH)}
    told = cell(implementation, spec, variant, length=n, **asked)
    return Record(told, outcome, values if seconds else {}, note, {}, "machine", {}, 1.0, "2026-01-01", "run")


def timed(subject: str, power: float, times: float = 1e-4, **asked: Any) -> list[Record]:
    return [record(subject, n, [times * n**power * (1 + i / 1000) for i in range(9)], **asked) for n in (16, 32, 64)]


FAILURES = [
    record("retention/parallel", 64, outcome="out_of_memory", note="asked for more memory than allowed"),
    record("retention/fla", 16, outcome="unsupported", note="runs on cuda, not on cpu"),
    record("retention/mine.py", 16, outcome="wrong", note="not timed: out is 1, but should be 2\n  score 9"),
    record("retention/yours.py", 32, outcome="timed_out", note="took longer than 300 s"),
    record("retention/theirs.py", 32, outcome="crashed", note="raised ValueError"),
]


def test_a_table_keeps_every_failure_with_its_note():
    records = [*timed("retention/recurrent", 1.0), *timed("retention/parallel", 2.0)[:2], *FAILURES]
    (frame,) = suite.table(records).values()
    notes = dict(zip(frame["implementation"], frame["note"].fillna(""), strict=True))
    assert notes == {
        "retention/recurrent": "",
        "retention/parallel": "out of memory: asked for more memory than allowed (at 64)",
        "retention/fla": "unsupported: runs on cuda, not on cpu",
        "retention/mine.py": "wrong: not timed: out is 1, but should be 2",
        "retention/yours.py": "timed out: took longer than 300 s",
        "retention/theirs.py": "crashed: raised ValueError",
    }
    row = frame.set_index("implementation").loc["retention/recurrent"]
    assert (row["16"], row["32"], row["64"]) == tuple(pytest.approx(0.1 * n, rel=0.01) for n in (16, 32, 64))
    assert (row["exponent"], row["declared"], row["verdict"]) == ("1.00 (1.00 to 1.00)", "N", "confirmed")
    assert frame.set_index("implementation").loc["retention/parallel"]["64"] != row["64"]
    assert "batch" not in frame.columns
    text = report.render(report.tables(suite, records), "text")
    assert all(note in text for note in notes.values() if note)


def test_what_was_done_once_and_what_never_became_steady_is_told():
    last = record("retention/recurrent", 64, [0.064] * 7)
    last.values["steady"] = False
    (frame,) = suite.table([record("retention/recurrent", 32, [0.032] * 7), last]).values()
    row = frame.iloc[0]
    assert (row["prepare"], row["first call"], row["note"]) == (100.0, 500.0, "never became steady (at 64)")


def test_batches_are_told_apart_where_there_are_several():
    (frame,) = suite.table([*timed("retention/recurrent", 1.0), *timed("retention/recurrent", 1.0, batch=4)]).values()
    assert list(frame["batch"]) == [1, 4]


def test_the_ratio_to_the_best_is_of_the_same_question():
    records = [*timed("retention/recurrent", 1.0), *timed("retention/chunkwise:chunk_64", 1.0, 5e-5)]
    (frame,) = suite.table(records).values()
    assert dict(zip(frame["implementation"], frame["x best"], strict=True)) == {
        "retention/chunkwise:chunk_64": 1.0,
        "retention/recurrent": 2.0,
    }


def test_rates_are_those_of_the_median_at_the_longest_length():
    (frame,) = suite.table([held_against(6.25e10, record("retention/recurrent", 64, [0.064] * 7))]).values()
    row = frame.iloc[0]
    assert (row["GFLOP/s"], row["GB/s"], row["of roofline"]) == (1.0, 0.1, "1.6%")
    (frame,) = suite.table([record("language_model/mine.py", 64, [0.064] * 7, flops=0)]).values()
    assert frame.iloc[0]["GFLOP/s"] is None


def held_against(rate: float, r: Record) -> Record:
    r.values["ceilings"] = asdict(Ceilings(1, 1e12, 1e12, {"float32": rate}))
    return r


def test_a_rate_that_a_judged_cell_reached_is_one_that_the_machine_can_do():
    slow, fast = (
        held_against(5e8, record(f"retention/{name}", 64, [s] * 7)) for name, s in (("recurrent", 0.128), ("parallel", 0.064))
    )
    (frame,) = suite.table([slow, fast]).values()
    assert dict(zip(frame["implementation"], frame["of roofline"], strict=True)) == {
        "retention/parallel": "100.0%",
        "retention/recurrent": "50.0%",
    }
    elsewhere = replace(fast, machine="another", cell=replace(fast.cell, implementation="chunkwise"))
    rows = suite.table([slow, elsewhere])
    assert set(next(iter(rows.values()))["of roofline"]) == {"100.0%"}, "of another machine it says nothing"


def test_claims_of_the_papers_stand_in_a_table_of_their_own():
    step = {"form": "step"}
    retnet = [record("retnet/torch_parallel", n, [1.0 + i / 1000 for i in range(9)], **step) for n in (16, 64)]
    rope = [record("transformer_rope/torch_sdpa", n, [n * (1.0 + i / 1000) for i in range(9)], **step) for n in (16, 64)]
    found = suite.table([*retnet, *rope])["What the papers claim"]
    assert dict(zip(found["claim"].str[:30], found["here"], strict=True)) == {
        "a step of RetNet takes as long": "shows",
        "a step with a cache of keys an": "shows",
    }


def test_every_claim_names_what_there_is():
    known = catalogue.implementations()
    for claim in suite.CLAIMS:
        for side in (claim.more, claim.less):
            full, _, variant = side.subject.partition(":")
            assert full in known, side.subject
            assert variant in known[full].facts.get("variants", {"": {}}), side.subject
            assert side.form in ("forward", "training", "step")


def test_pictures_are_drawn_of_all_that_has_a_number(tmp_path: Path):
    records = [*timed("retention/recurrent", 1.0), *timed("retention/parallel", 2.0), *timed("retnet/torch_parallel", 1.0)]
    records += [*FAILURES, *timed("language_model/mine.py", 1.0, flops=0)]
    drawn = suite.pictures(records)
    assert set(drawn) == {"retention", "language models", "roofline"}
    for name, figure in drawn.items():
        figure.savefig(tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000
    (axis,) = drawn["roofline"].axes
    assert {text.get_text() for text in axis.get_legend().get_texts()} == {"retention", "language models"}
    assert set(suite.pictures(timed("language_model/mine.py", 1.0, flops=0))) == {"language models"}
    assert suite.pictures(FAILURES) == {}


def test_no_rounds_are_a_wrong_request():
    words = {"suite": "speed", "spec": "layer_norm", "rounds": "0"}
    with pytest.raises(plan.WrongRequest, match="rounds=0 asks nothing"):
        plan.cells(*plan.selection(words))
