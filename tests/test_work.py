"""What cells are asked and what their formulas expect: operations beside torch's own counter, bytes beside the tensors."""

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from harness import catalogue, cost, plan, work
from harness.cell import Cell
from harness.implementation import Implementation
from harness.spec import Bunch

# All that these do are products of matrices, as torch counts them.
DENSE = {"absmax_int8", "nf4", "lstm", "xpos", "rwkv4", "lstm_lm"}
# Here torch's counter sees nothing: sums, norms, rotations, exponentials;
UNSEEN = {
    "alibi",
    "layer_norm",
    "position_interpolation",
    "relative_bias",
    "rms_norm",
    "rotary",
    "sinusoidal",
    "wkv",
}
# ... and here a part: no outer products, no transforms.
SEEN_IN_PART = {"retention", "hyena_operator"}
DEFINED = [name for name in catalogue.specs() if catalogue.load_spec(name).defined]
OPERATORS = [name for name in DEFINED if not catalogue.load_spec(name).of_modules]


def question(name: str, case: str = "", **asked: Any) -> cost.Question:
    spec = catalogue.load_spec(name)
    contestants = plan.selection({"suite": "speed", "spec": name})[0].contestants(name)
    settings = {"scale": "smoke", "threads": 1, "form": "forward", "batch": 1, "length": 64, **asked}
    return work.question(Cell("speed", name, *contestants[0], case or work.cases(spec)[0], "float32", settings=settings), spec)


def counted(name: str, asked: cost.Question) -> int:
    """Operations of the reference, by torch."""
    spec = catalogue.load_spec(name)
    x = Bunch({key: t.double() if t.is_floating_point() else t for key, t in spec.inputs(asked.case, "").items()})
    with FlopCounterMode(display=False) as counter:
        spec.reference(x, asked.case)
    return counter.get_total_flops()


@pytest.mark.parametrize("name", DEFINED)
def test_operations_are_those_that_torch_counts_and_never_more(name: str):
    spec = catalogue.load_spec(name)
    for case in work.cases(spec):
        asked = question(name, case)
        said, seen = work.operations(spec, asked), counted(name, asked)
        assert said > 0
        if name in DENSE:
            assert said == seen
        elif name in UNSEEN:
            assert seen == 0
        elif name in SEEN_IN_PART:
            assert 0 < seen < said
        else:
            assert said <= seen, "more than the reference does"
            assert case == "causal_simple" or said >= seen / 2, "less than half of what the reference does"


def test_pairs_out_of_sight_are_not_counted():
    """Of 64 causal queries with a window of 8: 8 * 9 / 2 pairs of the first eight, then eight each."""
    spec = catalogue.load_spec("attention")
    case = question("attention", "window").case.resized({"window": 8})
    asked = cost.Question(case, "forward", 64, 0)
    assert work.operations(spec, asked) == 2 * 4 * (36 + 56 * 8) * (64 + 64)
    near = catalogue.load_spec("transformer_window")
    case = question("transformer_window").case.resized({"t": 8})
    assert near.operations(case) - near.products(case) == 4 * 2 * 32 * (36 + 56 * 8)


def test_training_takes_three_times_the_operations_and_a_step_of_a_model_its_share():
    for name in ("attention", "transformer_rope"):
        spec = catalogue.load_spec(name)
        forward, training = (work.operations(spec, question(name, form=form)) for form in ("forward", "training"))
        assert training == 3 * forward
    step = question("transformer_rope", form="step")
    case = step.case
    weights = sum(2 * torch.Size(t.shape(case.values)).numel() for t in spec.given(case) if t.name.endswith("weight"))
    norms = sum(2 * case.d for t in spec.given(case) if "norm" in t.name and t.name.endswith("weight"))
    assert work.operations(spec, step) == weights - norms - 2 * case.v * case.d + 4 * case.l * 65 * case.d


@pytest.mark.parametrize("name", OPERATORS)
def test_bytes_are_those_of_the_tensors_that_are_passed(name: str):
    spec = catalogue.load_spec(name)
    for case in work.cases(spec):
        for form in work.forms(spec):
            asked = question(name, case, form=form)
            x = cost.inputs(spec, asked, 1)
            made = spec.reference({key: t.double() if t.is_floating_point() else t for key, t in x.items()}, asked.case)
            given = {t.name: x[t.name].nbytes for t in spec.given(asked.case)}
            answer = sum(t.numel() * 4 for t in made.values())
            gradients = sum(given[key] for key in spec.differentiable(asked.case)) + answer if form == "training" else 0
            assert work.moved(spec, asked) == sum(given.values()) + answer + gradients, (case, form)


def test_keys_that_nobody_sees_need_not_be_read():
    spec = catalogue.load_spec("attention")
    plain, window, both = (
        work.moved(spec, question("attention", case, form="step", length=1024)) for case in ("plain", "window", "lambda")
    )
    assert plain - window == 2 * (1024 - 256) * 4 * 64 * 4
    assert both == window, "252 and 4 sinks are 256"


def test_bytes_of_a_model_are_its_matrices_without_what_is_looked_up():
    spec, asked = catalogue.load_spec("transformer_learned"), question("transformer_learned")
    case = asked.case
    read = [t for t in spec.given(case) if t.name not in ("embedding.weight", "positions.weight") and "bias" not in t.name]
    numbers = sum(torch.Size(t.shape(case.values)).numel() for t in read if t.name != "ids")
    assert work.moved(spec, asked) == 4 * numbers + 8 * 64 + 4 * 64 * 256
    step = work.moved(spec, question("transformer_learned", form="step"))
    assert step == 4 * numbers + 8 + 4 * 256


def planned(**words: Any) -> list[Cell]:
    selection, suite = plan.selection({"suite": "speed", "scale": "smoke", "device": "cpu", **words})
    return plan.cells(selection, suite)


def test_exactly_these_cells_interleaved():
    cells = planned(spec="retention", impl="parallel,recurrent", form="forward,step", length="16,64", rounds=2, batch="1,3")
    told = [
        (*(c.settings[key] for key in ("form", "batch", "round")), c.implementation, c.settings["length"], c.case, c.dtype)
        for c in cells
    ]
    assert told == [
        (form, batch, number, name, length, "plain", "float32")
        for form in ("forward", "step")
        for batch in (1, 3)
        for number in (0, 1)
        for name in ("parallel", "recurrent")
        for length in (16, 64)
    ]
    assert all(c.suite == "speed" and c.settings["threads"] == 1 and c.settings["scale"] == "smoke" for c in cells)
    seeds = [work.question(c, catalogue.load_spec("retention")).seed for c in planned(spec="retention", seed="0,1", rounds=2)]
    assert set(seeds) == {0, 1, 1000, 1001}, "no two rounds have the same inputs"


def test_lengths_are_those_of_the_scale_or_any_that_are_asked():
    lengths = lambda **words: {c.settings["length"] for c in planned(spec="rotary", impl="pairs", **words)}  # noqa: E731
    assert lengths() == {16, 32, 64}
    assert lengths(length="4096,1,16,16") == {1, 16, 4096}
    for wrong in ("0", "abc", "64,", "1*", "-1"):
        with pytest.raises(plan.WrongRequest, match="is no list of whole numbers, 1 or more"):
            lengths(length=wrong)


def test_one_round_says_no_number_and_memory_has_but_one():
    assert all("round" not in c.settings for c in planned(spec="rotary", rounds=1))
    memory = planned(suite="memory", spec="rotary")
    assert all("round" not in c.settings for c in memory)
    assert len(memory) == len(set(memory))


def test_a_step_is_asked_where_there_is_one():
    stepwise = {c.spec for c in planned(form="step", length="16", rounds=1)}
    operators = {"aft", "attention", "linear_attention", "lstm", "retention", "wkv"}
    encoders = {"hat", "rmt_encoder"}
    models = {name for name in catalogue.specs() if catalogue.load_spec(name).of_modules}
    assert stepwise == operators | (models - encoders)
    with pytest.raises(plan.WrongRequest, match="no form named 'step'"):
        planned(spec="rms_norm", form="step")
    trained = {c.spec for c in planned(form="training", length="16", rounds=1)}
    assert trained.isdisjoint({"alibi", "sinusoidal"}), "what has no numbers to differentiate is not trained"


@pytest.mark.parametrize("batch", ["0", "-1", "2,x", "1.5", "1,,2"])
def test_a_batch_is_a_whole_number(batch: str):
    with pytest.raises(plan.WrongRequest, match="no list of whole numbers, 1 or more"):
        planned(spec="rms_norm", batch=batch)


def test_a_batch_is_asked_where_there_is_such_an_axis():
    assert {c.settings["batch"] for c in planned(spec="rms_norm,absmax_int8", batch="1,4") if c.spec == "absmax_int8"} == {1}
    asked = question("lstm", batch=3)
    assert asked.case.b == 3 * 4, "so many times the rows that its spec asks"
    with pytest.raises(plan.WrongRequest, match="no batch named '4'"):
        planned(spec="absmax_int8", batch="4")


def test_on_a_cpu_16_bits_are_asked_only_when_they_are_named():
    assert {c.dtype for c in planned(spec="rms_norm")} == {"float32"}
    assert {c.dtype for c in planned(spec="rms_norm", dtype="bfloat16")} == {"bfloat16"}


@pytest.mark.parametrize("name", [name for name in DEFINED if catalogue.load_spec(name).of_modules])
def test_language_models_have_about_as_many_parameters(name: str):
    spec = catalogue.load_spec(name)
    for scale in ("smoke", "default", "full"):
        case = question(name, scale=scale, length=work.SCALES[scale]["lengths"][0]).case
        numbers = sum(torch.Size(t.shape(case.values)).numel() for t in spec.given(case) if "." in t.name)
        assert numbers == pytest.approx(work.SCALES[scale]["parameters"], rel=0.03), scale


def test_the_small_case_has_the_widths_that_are_timed_and_the_length_that_is_named():
    spec = catalogue.load_spec("attention")
    small = work.small(spec, question("attention", "causal"))
    assert (small.d, small.e, small.h, small.g) == (64, 64, 4, 4)
    assert (small.n, small.m, small.visibility) == (37, 37, "causal")
    model = catalogue.load_spec("transformer_rope")
    assert work.small(model, question("transformer_rope")).n == model.sizes["n"]


def test_full_sizes_are_planned_without_a_gpu():
    cells = planned(spec="attention,transformer_rope", scale="full", rounds=1)
    assert {c.settings["length"] for c in cells} == {1024, 4096, 16_384}
    wide = question("attention", "causal", scale="full", length=1024).case
    assert (wide.h, wide.d) == (16, 128)


@pytest.mark.parametrize("name", [name for name in catalogue.specs() if catalogue.load_spec(name).parameters])
def test_every_model_can_be_built_at_the_default_sizes(name: str):
    """Parameters as the spec says them at the sizes that are timed are those that its implementation has."""
    spec = catalogue.load_spec(name)
    implementation = next(iter(catalogue.implementations(name))).partition("/")[2]
    variant = next(iter(catalogue.implementation(name, implementation).facts.get("variants", {"": {}})))
    settings = {"scale": "default", "form": "forward", "length": 128, "batch": 1, "threads": 1}
    cell = Cell("memory", name, implementation, variant, "plain", "float32", settings=settings)
    case = work.question(cell, spec).case
    wanted = {t.name: t.shape(case.values) for t in spec.given(case) if "." in t.name}
    model = Implementation.of(cell).prepare(case)
    assert {name: tuple(p.shape) for name, p in model.named_parameters()} == wanted
