"""The in-context-learning suite: solvers are right, blindness is chance, what is held out is held out, a small model learns."""

import math
import random
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pandas as pd
import pytest
import torch

from harness import catalogue
from harness.cell import Cell, Record
from harness.implementation import Implementation
from harness.interval import mean

icl = catalogue.load(Path(__file__).parents[2] / "suites" / "in_context_learning" / "__init__.py")
SMALL = {name: icl.PROBES[name](**sizes | {"trials": 200}) for name, (sizes, *_) in icl.scales.SCALES["smoke"]["probes"].items()}
FITTED = {
    name: icl.PROBES[name](**sizes | {"trials": 100}) for name, (sizes, *_) in icl.scales.SCALES["default"]["probes"].items()
}
NOTHING = icl.batch.NOTHING


@pytest.fixture(params=icl.PROBES)
def probe(request):
    return SMALL[request.param]


# Solvers and baselines


@pytest.mark.parametrize("name", ["mqar", "induction", "automata", "remapping"])
@pytest.mark.parametrize("probes", [SMALL, FITTED], ids=["smoke", "default"])
def test_the_exact_solver_is_always_right(probes, name):
    probe = probes[name]
    assert set(probe.score(probe.measure(probe.exact))) == {1.0}


def test_least_squares_explains_all_but_the_grid():
    probe = FITTED["regression"]
    found = probe.measure(probe.exact)
    assert mean(probe.score(found)) > 0.99
    assert mean(found["2 points"]) > mean(found["8 points"])
    fine = replace(probe, x_bins=1001, y_bins=2001)
    assert mean(fine.measure(fine.exact)["8 points"]) < 1e-5


def test_blindness_is_at_chance(probe):
    score = probe.score(probe.measure(probe.blind))
    spread = torch.tensor(score).std().item() / math.sqrt(len(score))
    assert abs(mean(score) - probe.chance) <= 3.5 * spread + 1e-9


def test_predicting_the_mean_has_an_error_of_one_whatever_is_seen():
    probe = SMALL["regression"]
    assert all(mean(errors) == pytest.approx(1.0) for errors in probe.measure(probe.blind).values())
    y = probe.y_grid[probe.rows(4000, icl.batch.dice(0)).ids[:, 1::2] - probe.x_bins]
    assert abs(y.mean()) < 0.05, "the mean of all y is not 0"


def test_solvers_read_nothing_later(probe):
    ids = next(probe.batches(4)).ids
    half = ids.shape[1] // 2 // 2 * 2
    assert torch.equal(probe.exact(ids)[:, : half - 1], probe.exact(ids[:, :half])[:, : half - 1])


# What is asked


def test_batches_are_the_same_for_the_same_seed(probe):
    one, two, other = (next(probe.batches(8)), next(probe.batches(8)), next(replace(probe, seed=1).batches(8)))
    assert torch.equal(one.ids, two.ids)
    assert torch.equal(one.targets, two.targets)
    assert not torch.equal(one.ids, other.ids)


def test_batches_fit_the_model_and_ask_something_in_every_row(probe):
    for batch in islice(probe.batches(8), 5):
        assert batch.ids.shape == batch.targets.shape == (8, probe.n)
        assert 0 <= batch.ids.min() <= batch.ids.max() < probe.v
        asked = batch.targets[batch.targets != NOTHING]
        assert len(asked)
        assert 0 <= asked.min() <= asked.max() < probe.v


def test_each_key_stands_once_and_asks_once():
    probe = FITTED["mqar"]
    rows = probe.rows(20, 8, icl.batch.dice(0))
    keys = rows.ids[:, :16:2]
    assert all(len(set(row)) == 8 for row in keys.tolist())
    asked = rows.targets != NOTHING
    assert asked.sum(1).tolist() == [8] * 20
    assert not asked[:, :16].any()
    assert torch.equal(rows.ids[asked].view(20, 8).sort(1)[0], keys.sort(1)[0])


def test_rows_of_induction_repeat_with_their_period():
    probe = FITTED["induction"]
    periods = torch.tensor([4, 8, 16])
    rows = probe.rows(periods, icl.batch.dice(0))
    for ids, targets, period in zip(rows.ids, rows.targets, periods.tolist(), strict=True):
        assert torch.equal(ids[period:], ids[:-period])
        assert len(set(ids.tolist())) == period
        assert (targets[: period + 1] == NOTHING).all()
        assert (targets != NOTHING).any()


def test_automata_of_the_trials_are_not_trained_on():
    probe = SMALL["automata"]
    train, held_out = probe.drawn
    told = (icl.automata.language(some, icl.automata.after_two(some)) for some in (train, held_out))
    languages = [{trigrams.numpy().tobytes() for trigrams in some} for some in told]
    assert [len(found) for found in languages] == [len(train), len(held_out)] == [probe.automata, probe.trials]
    assert not languages[0] & languages[1]


def test_walks_are_permitted_and_two_symbols_tell_the_state():
    probe = SMALL["automata"]
    _, held_out = probe.drawn
    assert icl.automata.two_symbols_tell(icl.automata.after_two(held_out)).all()
    walked = probe.held_out()
    valid = walked.valid.gather(2, walked.targets.clamp(min=0)[..., None])[..., 0]
    assert valid[walked.targets != NOTHING].all()
    exits = (held_out >= 0).sum(2)
    assert exits.min() == 1
    assert exits.max() == icl.automata.MOST_EXITS
    assert not (held_out == torch.arange(probe.states)[:, None]).any(), "a state leads to itself"


def test_whether_two_symbols_tell_the_state_is_seen():
    turns = torch.tensor([[[1, -1], [-1, 0]]])  # a from the first state to the second, b back
    circle = torch.tensor([[[1, -1], [2, -1], [0, -1]]])  # a, a, a, ...: the state stays hidden
    tell, after_two = icl.automata.two_symbols_tell, icl.automata.after_two
    assert after_two(turns)[0].amax(0).tolist() == [[-1, 0], [1, -1]]
    assert tell(after_two(turns)).tolist() == [True]
    assert tell(after_two(circle)).tolist() == [False]


def test_training_binds_no_symbol_to_a_class_and_tuning_no_held_out_symbol():
    probe = FITTED["remapping"]
    symbols = set(range(probe.label + 2, probe.v))
    held_out = set(probe.symbols_of("held out").tolist())
    assert held_out | set(probe.symbols_of("tuning").tolist()) == symbols
    assert len(held_out) == len(symbols) // 2
    tuned = torch.cat([batch.ids for batch in islice(probe.tuning(32), 50)])
    assert not held_out & set(tuned.flatten().tolist())
    ids = torch.cat([batch.ids for batch in islice(probe.batches(32), 200)])
    classes, labels = probe.classes[ids[:, 0:-1:2]].flatten(), ids[:, 1::2].flatten()
    for symbol in symbols:
        assert 0.2 < classes[labels == symbol].double().mean() < 0.8  # some twenty inputs for each, stated several times
    rows = probe.unrelated()
    assert set(rows.ids[:, 1::2].flatten().tolist()) <= held_out


def test_flips_change_that_share_of_the_labels_and_nothing_else():
    probe = FITTED["remapping"]
    plain, _ = probe.flipped(0)
    for percent in icl.remapping.FLIPS:
        prior, context = probe.flipped(percent)
        assert torch.equal(prior.ids[:, 0::2], plain.ids[:, 0::2])
        assert torch.equal(prior.targets, plain.targets)
        changed = prior.ids[:, 1::2] != plain.ids[:, 1::2]
        assert (changed.sum(1) == probe.examples * percent // 100).all()
        same = (prior.targets == context.targets)[:, -1]
        assert same.all() if percent <= 50 else not same.any()
    stated, asked = plain.ids[:, :-1:2], plain.ids[:, -1:]
    assert not (stated == asked).any(), "the input that is asked for is stated before"


def test_a_row_in_which_nothing_is_asked_is_left_out():
    ids = torch.zeros(3, 2, dtype=torch.long)
    targets = torch.tensor([[0, NOTHING], [NOTHING, NOTHING], [1, 0]])
    said = torch.tensor([1.0, 0.0]).expand(3, 2, 2)
    assert icl.batch.accuracy(lambda ids: said[: len(ids)], icl.batch.Batch(ids, targets)) == [1.0, 0.5]
    sizes = icl.scales.SCALES["smoke"]["probes"]["automata"][0]
    walks = icl.PROBES["automata"](**sizes, seed=6)  # one of which repeats nothing in its first half
    found = walks.measure(walks.exact)
    assert {name: len(shares) for name, shares in found.items()} == {"first half": 31, "second half": 32}
    assert set(found["first half"]) == {1.0}


# Differences


def test_differences_are_paired_over_seeds():
    rng = random.Random(0)
    hard = {seed: rng.gauss(0.5, 0.2) for seed in range(5)}
    scores = {
        "best": hard,
        "a bit worse each time": {seed: score - 0.05 - 0.01 * rng.random() for seed, score in hard.items()},
        "worse by luck": {seed: score - 0.02 + rng.gauss(0, 0.2) for seed, score in hard.items()},
        "one seed": {0: 0.1},
    }
    rows = {row["model"]: row for row in icl.comparison.against_best(scores)}
    assert rows["a bit worse each time"]["verdict"] == "worse"
    assert rows["worse by luck"]["verdict"] == "difference not resolved"
    assert rows["one seed"]["verdict"].startswith("difference not resolved")
    assert "difference" not in rows["one seed"]


# End to end


def cell(probe: str, spec: str = "transformer_rope", name: str = "torch_sdpa", seed: int = 0) -> Cell:
    return Cell("in-context-learning", spec, name, "", probe, "float32", "cpu", seed, {"scale": "smoke"})


def asked(of: Cell) -> Record:
    answer = icl.measure(of, Implementation.of(of), lambda share, doing: None)
    return Record(of, answer.outcome, answer.values, answer.note, {}, "here", {}, 1.0, "2026-01-01", "run")


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARNESS_CACHE", str(tmp_path_factory.mktemp("cache")))
        cells = [cell("mqar"), cell("mqar", seed=1), *(cell(probe) for probe in list(icl.PROBES)[1:])]
        made = [
            asked(of) for of in [*cells, cell("mqar", "retnet", "torch_parallel"), cell("mqar", "retnet", "torch_parallel", 1)]
        ]
        taker = replace(cells[0], spec="transformer_interpolated", variant="by_4")
        return made, asked(cells[-1]), asked(taker)


@pytest.mark.xdist_group("in-context-learning")
def test_a_small_model_learns_and_its_weights_are_kept(records):
    made, again, _ = records
    assert {record.outcome for record in made} == {"ok"}
    for record in made[:3]:
        assert mean(record.values["score"]["trained"]) > 1.5 * record.values["chance"], record.cell.case
    assert made[5].cell == again.cell
    assert made[5].values["found"] == again.values["found"]
    assert {told["weights"] for told in made[5].values["training"].values()} == {"trained in this run"}
    assert {told["weights"] for told in again.values["training"].values()} == {"kept from an earlier run"}


@pytest.mark.xdist_group("in-context-learning")
def test_a_model_that_takes_weights_takes_the_trained_ones(records):
    made, _, taker = records
    told = taker.values["training"]["trained"]
    assert told["weights_of"] == "transformer_rope/torch_sdpa"
    assert told["weights"] == "kept from an earlier run"
    assert told["bits_per_answer"] == made[0].values["training"]["trained"]["bits_per_answer"]
    assert taker.values["found"]["trained"] != made[0].values["found"]["trained"]
    assert set(icl.digests(taker.cell)) == {"weights_of"}
    assert not icl.digests(made[0].cell)


@pytest.mark.parametrize("name", ["transformer_rope/torch_sdpa", "retnet/torch_parallel", "lstm_lm/torch_lstm"])
@pytest.mark.parametrize("scale", ["smoke", "default"])
def test_models_have_about_as_many_parameters(name, scale):
    spec, _, implementation = name.partition("/")
    of = replace(cell("mqar", spec, implementation), settings={"scale": scale})
    contestant, probe = Implementation.of(of), icl.probe_of(of)
    case = contestant.spec.case("plain", torch.float32, "cpu").resized(icl.training.sizes_of(of, contestant))
    wanted = icl.scales.SCALES[scale]["parameters"] + 2 * probe.v * case.d
    assert sum(p.numel() for p in contestant.prepare(case).parameters()) == pytest.approx(wanted, rel=0.05)


@pytest.mark.xdist_group("in-context-learning")
def test_tables_have_a_row_a_model_and_the_baselines(records):
    frames = {title.partition(" (")[0]: frame for title, frame in icl.table(records[0]).items()}
    scores = frames["Score by probe"].set_index("model")
    assert list(scores.index) == ["retnet/torch_parallel", "transformer_rope/torch_sdpa", "exact solver", "context-blind"]
    assert scores.loc["exact solver", "mqar"] == 1.0
    assert scores.loc["context-blind", "remapping"] == 0.5
    assert pd.isna(scores.loc["retnet/torch_parallel", "remapping"]), "what was not asked has no number"
    verdicts = frames["Against the best model"]
    assert list(verdicts["probe"]) == ["mqar"]
    assert list(verdicts["seeds"]) == [2]
    assert verdicts["verdict"].isin(["difference not resolved", "worse"]).all()
    assert set(frames["Flipped labels"]["after"]) == {"trained", "symbol-tuned", ""}
    assert len(frames["Training"]) == 7  # five probes, one of them by two models and one in two stages
    assert all(len(frame) for frame in frames.values())


@pytest.mark.xdist_group("in-context-learning")
def test_a_record_in_which_a_share_of_nothing_was_stored_has_its_tables(records):
    of = records[0][4]
    assert of.cell.case == "automata"
    whole, half = of.values["found"], of.values["found"]["trained"]["first half"]
    stored = {**whole, "trained": {**whole["trained"], "first half": ["nan", *half]}}
    frames = {
        title.partition(" (")[0]: frame
        for title, frame in icl.table([replace(of, values={**of.values, "found": stored})]).items()
    }
    languages = frames["Languages of unseen automata"].set_index("model")
    assert languages.loc["transformer_rope/torch_sdpa", "first half"] == round(mean(half), 3)


@pytest.mark.xdist_group("in-context-learning")
def test_unequal_budgets_are_noted(records):
    of = records[0][0]
    values = {**of.values, "parameters": 20 * of.values["parameters"], "beside_parameters": 10**9}
    (note,) = next(f for t, f in icl.table([replace(of, values=values)]).items() if t.startswith("Training"))["note"]
    assert "over the 25,776 parameters of the others" in note
    assert "beside its parameters 1,000,000,000 numbers" in note
    notes = next(f for t, f in icl.table(records[0]).items() if t.startswith("Training"))["note"]
    assert not any(notes), "parameters are as many as those of the others"


@pytest.mark.xdist_group("in-context-learning")
def test_pictures_are_drawn_of_the_probes_that_were_asked(records):
    drawn = icl.pictures(records[0])
    assert list(drawn) == ["mqar smoke", "induction smoke", "regression smoke", "flipped labels smoke"]
    (axis,) = drawn["mqar smoke"].axes  # RoPE is in each panel, so it needs none of its own
    assert [line.get_label() for line in axis.get_lines()[:2]] == ["rope", "retnet"]
    assert list(axis.get_lines()[0].get_xdata()) == [1, 2], "pairs to hold"
    assert not icl.pictures([replace(records[0][0], outcome="crashed", values={})])


@pytest.mark.xdist_group("in-context-learning")
def test_a_model_that_failed_keeps_its_row_and_says_why(records):
    failed = replace(records[0][0], outcome="crashed", values={}, note="raised ValueError: no")
    frame = next(iter(icl.table([failed, records[0][1]]).values())).set_index("model")
    assert frame.loc["transformer_rope/torch_sdpa", "note"] == "crashed: raised ValueError: no"
    frame = next(iter(icl.table([failed]).values())).set_index("model")
    assert pd.isna(frame.loc["transformer_rope/torch_sdpa", "mqar"])


def test_what_is_not_the_model_of_its_spec_is_not_trained(monkeypatch):
    monkeypatch.setattr(icl.training, "stages", lambda *args: pytest.fail("it was trained"))
    wrong = cell("mqar", spec="transformer_rope", name=str(catalogue.implementation("transformer_nope", "torch_sdpa").path))
    record = asked(wrong)
    assert record.outcome == "wrong"
    assert record.note.startswith("not trained, for it does not compute what its spec says")


def test_measuring_leaves_the_model_as_it_was(probe):
    of = cell("mqar")
    case = catalogue.load_spec(of.spec).case("plain", torch.float32, "cpu")
    model = Implementation.of(of).prepare(case.resized({"v": probe.v, "t": probe.n, **icl.scales.SCALES["smoke"]["model"]}))
    before = digest(model)
    probe.measure(model)
    assert digest(model) == before
    with torch.no_grad():
        next(model.parameters())[0, 0] += 1e-6
    assert digest(model) != before, "the digest does not see a change"


def digest(model: torch.nn.Module) -> str:
    return icl.batch.hashlib.sha256(b"".join(w.numpy().tobytes() for w in model.state_dict().values())).hexdigest()
