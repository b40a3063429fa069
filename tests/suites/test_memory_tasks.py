"""The memory tasks: rows are what they say, solvers are right, blindness is chance, a small model learns, tables tell all."""

from dataclasses import replace
from itertools import islice
from pathlib import Path

import pandas as pd
import pytest
import torch

from harness import catalogue, plan, readings
from harness.cell import Cell, Record
from harness.implementation import Implementation

suite = catalogue.load(Path(__file__).parents[2] / "suites" / "long_context" / "__init__.py")
facts, curriculum, memory_tasks = suite.facts, suite.memory_tasks.curriculum, suite.memory_tasks
TEXT = (bytes(range(32, 250)) * 20, b"noise without facts " * 200)
SMOKE = suite.memory_tasks.SCALES["smoke"]["memory"]


@pytest.fixture(params=facts.NAMES)
def task(request):
    return request.param


def rows(task: str, length: int = 48, count: int = 600):
    ids, targets = next(facts.batches(task, TEXT, [length], count, 0))
    return ids, targets[:, 0] - facts.ANSWER


# Rows, solvers and baselines


@pytest.mark.parametrize("length", [16, 64, 256])
def test_the_exact_solver_is_always_right_and_blindness_at_chance(task, length):
    assert set(facts.right(task, facts.exact, TEXT, length, 400, 1)) == {1.0}
    blind = facts.right(task, facts.blind, TEXT, length, 400, 1)
    assert set(blind) == {0.0, 1.0}
    assert abs(sum(blind) / 400 - facts.CHANCE) < 3.5 * (facts.CHANCE * (1 - facts.CHANCE) / 400) ** 0.5


def test_one_of_two_facts_says_nothing():
    ids, place = rows(facts.REASON, count=4000)
    for of in (facts.FACT, facts.STEPS):
        known = torch.where((ids >= of) & (ids < of + facts.PLACES), ids - of, 0).sum(1)
        for value in range(facts.PLACES):
            answers = torch.bincount(place[known == value], minlength=facts.PLACES)
            assert answers.max() < 1.4 * answers.sum() / facts.PLACES, f"{value} alone leads to {answers.tolist()}"


def test_facts_stand_where_the_task_has_them(task):
    ids, _ = rows(task)
    stands = (ids >= facts.FACT) & (ids < facts.STEPS + facts.PLACES)
    assert (stands.sum(1) == (2 if task == facts.REASON else 1)).all()
    assert (ids[:, -1] == facts.ASK).all()
    assert (ids[:, :-1][~stands[:, :-1]] < facts.FACT).all(), "the noise holds what could be taken for a fact"
    where = stands.any(0).nonzero()[:, 0].tolist()
    assert where == ([0] if task == facts.MEMORIZE else list(range(47)))


def test_both_orders_of_two_facts_occur():
    ids, _ = rows(facts.REASON)
    first = (ids >= facts.STEPS).int().argmax(1) < ((ids >= facts.FACT) & (ids < facts.STEPS)).int().argmax(1)
    assert 0.4 < first.double().mean() < 0.6


def test_rows_are_the_same_for_the_same_seed(task):
    lengths = [16, 32, 16]
    one, same, other = (list(facts.batches(task, TEXT, lengths, 4, seed)) for seed in (0, 0, 1))
    assert [ids.shape for ids, _ in one] == [(4, length) for length in lengths]
    assert all(torch.equal(a, b) and torch.equal(s, t) for (a, s), (b, t) in zip(one, same, strict=True))
    assert not any(torch.equal(a, b) for (a, _), (b, _) in zip(one, other, strict=True))
    assert not torch.equal(one[0][0], one[2][0]), "a batch comes twice"


def test_the_curriculum_grows_by_a_segment_at_a_time():
    of_steps = iter(curriculum.lengths(SMOKE, 0))
    for segments, steps in enumerate(SMOKE["curriculum"], 1):
        assert set(islice(of_steps, steps)) == {16 * k for k in range(1, segments + 1)}
    assert not list(of_steps)


def test_the_last_byte_is_what_a_language_model_is_asked():
    class Counting(torch.nn.Module):
        def forward(self, ids):
            said = ids[..., None] * torch.ones(3)
            return said if self.everywhere else said[:, 0]

    model = Counting()
    ids = torch.arange(8).view(2, 4)
    for model.everywhere, expected in ((True, [3, 7]), (False, [0, 4])):
        said = curriculum.Answering(model)(ids)
        assert said.shape == (2, 1, 3)
        assert said[:, 0, 0].tolist() == expected


# End to end


def cell(task: str, spec: str, name: str = "torch_sdpa", variant: str = "") -> Cell:
    return Cell("long-context", spec, name, variant, task, "float32", "cpu", 0, {"scale": "smoke", "text": ""})


def asked(of: Cell) -> Record:
    answer = suite.measure(of, Implementation.of(of), lambda share, doing: None)
    return Record(of, answer.outcome, answer.values, answer.note, {}, "here", {}, 1.0, "2026-01-01", "run")


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARNESS_CACHE", str(tmp_path_factory.mktemp("cache")))
        asked_for = [("memorize", "rmt"), ("memorize", "hat"), ("detect", "transformer_rope"), ("detect", "rmt_encoder")]
        made = [asked(cell(*of)) for of in asked_for]
        return made, asked(made[2].cell), asked(cell("detect", "transformer_interpolated", variant="by_4"))


def test_only_memory_tasks_ask_encoders():
    def planned(**words):
        asked_for, own = plan.selection({"suite": "long-context", "spec": "rmt,hat", **words})
        return {(c.spec, c.case) for c in own.plan(asked_for)}

    both = {(spec, task) for spec in ("rmt", "hat") for task in facts.NAMES}
    assert planned(task=",".join(facts.NAMES)) == both
    assert planned() == {("rmt", "extrapolation")}


@pytest.mark.xdist_group("memory-tasks")
def test_a_small_model_learns_and_its_weights_are_kept(records):
    made, again, _ = records
    assert {record.outcome for record in made} == {"ok"}
    for record in made:
        assert sum(record.values["accuracy"]["1"]) > 0.8 * SMOKE["trials"], record.cell
    assert made[2].values["accuracy"] == again.values["accuracy"]
    assert made[2].values["training"]["weights"] == "trained in this run"
    assert again.values["training"]["weights"] == "kept from an earlier run"


@pytest.mark.xdist_group("memory-tasks")
def test_a_model_that_takes_weights_takes_the_trained_ones(records):
    made, _, taker = records
    told = taker.values["training"]
    assert told["weights_of"] == "transformer_rope/torch_sdpa"
    assert told["weights"] == "kept from an earlier run"
    assert told["bits_per_answer"] == made[2].values["training"]["bits_per_answer"]
    assert made[2].values["parameters"] == taker.values["parameters"]


@pytest.mark.xdist_group("memory-tasks")
def test_where_learned_positions_end_a_sentence_stands_and_no_number(records):
    _, hat, *_ = records[0]
    assert isinstance(hat.values["accuracy"]["4"], list)
    for beyond in ("8", "16"):
        assert hat.values["accuracy"][beyond] == "learned positions of segments end at 4 segments of 16 tokens"


@pytest.mark.xdist_group("memory-tasks")
def test_tables_have_a_row_a_model_and_the_baselines(records):
    frames = {title.partition(" (")[0]: frame for title, frame in suite.table(records[0]).items()}
    assert list(frames) == [
        "Memorize",
        "Detect and memorize",
        "Claims of the papers on memory tasks",
        "Training on the memory tasks",
    ]
    memorize = frames["Memorize"].set_index("model")
    assert list(memorize.index) == ["hat/torch_sdpa", "rmt/torch_sdpa", "exact solver", "context-blind"]
    assert memorize.loc["exact solver", "16"] == 1.0
    assert memorize.loc["context-blind", "16"] < 0.6
    assert pd.isna(memorize.loc["hat/torch_sdpa", "8"])
    assert memorize.loc["hat/torch_sdpa", "note"] == "learned positions of segments end at 4 segments of 16 tokens"
    assert list(frames["Training on the memory tasks"]["task"]) == ["memorize", "memorize", "detect", "detect"]


@pytest.mark.xdist_group("memory-tasks")
def test_a_model_that_failed_keeps_its_row_and_says_why(records):
    made, *_ = records
    failed = replace(made[0], outcome="crashed", values={}, note="raised ValueError: no")
    frame = next(iter(suite.table([failed, made[1]]).values())).set_index("model")
    assert frame.loc["rmt/torch_sdpa", "note"] == "crashed: raised ValueError: no"
    assert pd.isna(frame.loc["rmt/torch_sdpa", "1"])
    frame = next(iter(suite.table([failed]).values()))
    assert list(frame["model"]) == ["rmt/torch_sdpa"]


@pytest.mark.xdist_group("memory-tasks")
def test_each_task_has_a_picture_with_the_end_of_the_curriculum(records):
    drawn = suite.pictures(records[0])
    assert list(drawn) == ["memorize smoke", "detect smoke"]
    for title, figure in drawn.items():
        labels = {line.get_label() for axis in figure.axes for line in axis.lines}
        assert labels >= {readings.short(r.cell.subject) for r in records[0] if r.cell.case == title.partition(" ")[0]}
        for axis in figure.axes:
            assert any(list(line.get_xdata()) == [4, 4] for line in axis.lines), "the end of the curriculum is not marked"


def test_a_model_tuned_on_text_is_unsupported():
    of = cell("detect", "transformer_interpolated", variant="by_16_fine_tuned")
    with pytest.raises(suite.memory_tasks.Unsupported, match="tuned on text"):
        curriculum.trained(of, Implementation.of(of), lambda share, doing: None)
