"""Claims of both suites that train, and pictures of the long-context suite, from records that are made up."""

from dataclasses import replace

import pytest

from harness import catalogue, readings
from harness.cell import OK, Cell, Record

suite = catalogue.load(catalogue.find("suite", "long-context").path)
in_context = catalogue.load(catalogue.find("suite", "in-context-learning").path)
ROPE, LM_INFINITE = "transformer_rope/torch_sdpa", "transformer_lm_infinite/torch_blocks"


def record(subject: str, bits: dict[int, list[float]], seed: int = 0, outcome: str = OK) -> Record:
    spec, _, name = subject.partition("/")
    values = {"length": 32, "text": "some text", "bits_per_byte": {str(c): samples for c, samples in bits.items()}}
    values["recall"] = {str(distance): [0.5, 0.25] for distance in (16, 32, 64)}
    name, _, variant = name.partition(":")
    cell = Cell("long-context", spec, name, variant, "extrapolation", seed=seed, settings={"scale": "smoke", "text": ""})
    return Record(cell, outcome, values, "", {}, "machine", {}, 1.0, "2026-01-01", "run")


def verdicts(*records: Record) -> dict[str, str]:
    return {row["claim"]: row["here"] for row in readings.readings(records, suite.claims.on_text(32))}


def rising(by: float, noise: float = 0.001) -> dict[int, list[float]]:
    """Windows that differ much among themselves, and little in how much they rise."""
    first = [1.0 + i for i in range(20)]
    return {32: first, 512: [x + by + noise * (-1) ** i for i, x in enumerate(first)]}


@pytest.mark.parametrize(("by", "noise", "said"), [(1.0, 0.1, "shows"), (0.0, 0.01, "refuted"), (0.05, 0.2, "not resolved")])
def test_a_claim_of_a_rise_is_read_window_by_window(by: float, noise: float, said: str):
    assert verdicts(record(ROPE, rising(by, noise)))["RoPE fails past its training length"] == said


def test_a_claim_that_something_holds_shows_where_it_does_not_rise():
    flat, steep = record(LM_INFINITE, rising(0.0)), record(LM_INFINITE, rising(0.5))
    assert verdicts(flat)["LM-Infinite holds at 16 times"] == "shows"
    assert verdicts(steep)["LM-Infinite holds at 16 times"] == "refuted"


def test_rows_are_paired_by_seed_and_left_out_where_one_is_missing():
    claim = "LM-Infinite repairs RoPE without training"
    assert claim not in verdicts(record(ROPE, rising(1.0)))
    assert claim not in verdicts(record(ROPE, rising(1.0)), record(LM_INFINITE, rising(0.0), seed=1))
    assert claim not in verdicts(record(ROPE, rising(1.0)), record(LM_INFINITE, rising(0.0), outcome="crashed"))
    assert verdicts(record(ROPE, rising(1.0)), record(LM_INFINITE, rising(0.0)))[claim] == "shows"


def remembering(task: str, accuracy: dict[int, list[float]], seed: int = 0) -> Record:
    values = {"accuracy": {str(segments): rows for segments, rows in accuracy.items()}}
    cell = Cell("long-context", "rmt", "torch_sdpa", case=task, seed=seed, settings={"scale": "smoke", "text": ""})
    return Record(cell, OK, values, "", {}, "machine", {}, 1.0, "2026-01-01", "run")


def on_memory(*records: Record) -> dict[str, str]:
    asked = suite.claims.on_memory(4, 16)
    return {row["claim"]: row["here"] for row in readings.readings(records, asked)}


@pytest.mark.parametrize(("right", "said"), [(400, "shows"), (300, "refuted"), (380, "not resolved")])
def test_a_claim_that_a_memory_lasts_is_read_row_by_row(right: int, said: str):
    known = remembering("detect", {4: [1.0] * 400, 16: [1.0] * right + [0.0] * (400 - right)})
    assert on_memory(known) == {"RMT detects and memorizes beyond its curriculum": said}


def test_of_one_seed_the_same_weights_are_compared_and_those_of_two_trainings_are_not():
    flat, steep = rising(0.0), rising(1.0)
    others = ("transformer_interpolated/torch_sdpa:by_16", "transformer_xpos/torch_sdpa")
    told = readings.readings([record(ROPE, steep), *(record(name, flat) for name in others)], suite.claims.on_text(32))
    assert {row["claim"]: (row["seeds"], row["here"]) for row in told} == {
        "RoPE fails past its training length": (1, "shows"),
        "interpolation is better than extrapolation": (1, "shows"),
        "xPos extrapolates better than RoPE": (1, "not resolved by one seed"),
    }


def test_what_was_not_asked_of_a_memory_is_no_claim():
    ended = remembering("detect", {4: [1.0] * 8})
    sentence = replace(ended, values={"accuracy": {"4": [1.0] * 8, "16": "positions end"}})
    assert on_memory(ended) == on_memory(sentence) == {}


def test_two_memory_tasks_of_one_model_are_told_apart():
    easy, hard = remembering("detect", {16: [1.0] * 40}), remembering("reason", {16: [1.0, 0.0] * 20})
    assert on_memory(easy, hard) == {"RMT finds reasoning harder than detecting": "not resolved by one seed"}
    seeds = [replace(r, cell=replace(r.cell, seed=seed)) for r in (easy, hard) for seed in range(3)]
    assert on_memory(*seeds) == {"RMT finds reasoning harder than detecting": "shows"}


def learned(probe: str, subject: str = ROPE, seed: int = 0, **found: dict[str, list[float]]) -> Record:
    spec, _, name = subject.partition("/")
    values = {"score": {stage: next(iter(columns.values())) for stage, columns in found.items()}, "found": found}
    cell = Cell("in-context-learning", spec, name, case=probe, seed=seed, settings={"scale": "smoke"})
    return Record(cell, OK, values, "", {}, "machine", {}, 1.0, "2026-01-01", "run")


def in_contexts(*records: Record) -> dict[str, str]:
    return {row["claim"]: row["here"] for row in readings.readings(records, in_context.claims.CLAIMS)}


def test_models_are_compared_trial_by_trial_in_a_probe():
    some = [1.0, 0.0] * 32
    both = [
        (
            learned("mqar", seed=seed, trained={"8 pairs": [1.0] * 64}),
            learned("mqar", "hyena_lm/torch_fft", seed, trained={"8 pairs": some}),
        )
        for seed in range(3)
    ]
    one_seed = dict.fromkeys(
        ("attention recalls more than a long convolution", "a long convolution recalls as attention does"),
        "not resolved by one seed",
    )
    assert in_contexts(*both[0]) == one_seed, "which of two is better hangs on the seed that each was trained with"
    assert in_contexts(*(record for pair in both for record in pair)) == {
        "attention recalls more than a long convolution": "shows",
        "a long convolution recalls as attention does": "refuted",
    }


def test_a_model_is_compared_with_the_exact_solver_of_its_trials():
    near = {"trained": {"after 8": [0.97, 0.99] * 32}, "exact solver": {"after 8": [1.0] * 64}}
    assert in_contexts(learned("regression", **near)) == {"a transformer comes near least squares": "shows"}


def test_symbol_tuning_is_read_from_before_and_after_in_one_record():
    before = {
        "symbols, of two": [1.0, 0.0] * 32,
        "prior, 0 %": [1.0] * 64,
        "context, 100 %": [1.0] * 64,
        "prior, 100 %": [0.0] * 64,
    }
    after = {"symbols, of two": [1.0] * 64, "prior, 0 %": [1.0] * 64, "context, 100 %": [0.0] * 64, "prior, 100 %": [1.0] * 64}
    assert in_contexts(learned("remapping", trained=before, **{"symbol-tuned": after})) == {
        "who met flipped labels in training follows them": "shows",
        "symbol tuning teaches symbols that it did not show": "shows",
        "symbol tuning keeps ordinary labels": "shows",
        "symbol tuning keeps following flipped labels": "refuted",
    }


def test_every_claim_names_models_that_there_are():
    known = catalogue.implementations()
    for claim in (*suite.claims.on_text(32), *suite.claims.on_memory(4, 16), *in_context.claims.CLAIMS):
        for row in (claim.more, claim.less):
            name, _, variant = row.of.partition(":")
            assert name in known, f"{claim.sentence}: there is no {name}"
            assert not variant or variant in known[name].facts["variants"], f"{claim.sentence}: {name} has no variant {variant}"


def test_pictures_are_drawn_of_what_there_is():
    drawn = suite.pictures([record(ROPE, rising(1.0)), record(LM_INFINITE, rising(0.0))])
    assert set(drawn) == {"bits per byte smoke", "recall smoke"}
    panels = [axis.get_title() for axis in drawn["bits per byte smoke"].axes]
    assert panels == ["after training"]
    names = [text.get_text() for text in drawn["bits per byte smoke"].axes[0].get_legend().get_texts()]
    assert names == ["rope", "lm_infinite"]


def test_a_model_that_is_unsupported_everywhere_has_no_curve():
    none = record("transformer_learned/torch_sdpa", {32: [1.0]})
    values = {**none.values, "recall": dict.fromkeys(("16", "32", "64"), "positions end")}
    drawn = suite.pictures([replace(none, values=values), record(ROPE, rising(1.0)), record(LM_INFINITE, rising(1.0))])
    assert [axis.get_title() for axis in drawn["recall smoke"].axes] == ["after training"]
    assert [axis.get_title() for axis in drawn["bits per byte smoke"].axes] == ["positions", "after training"]


def test_the_tables_of_records_that_were_made_before_a_column_was_there():
    old = record(ROPE, rising(1.0) | {64: [1.0], 128: [1.0], 256: [1.0]})
    values = {**old.values, "horizon": 32, "parameters": 1, "score": 0.1}
    values["recall"] = {str(distance): [0.5, 0.25] for distance in (16, 32, 64, 128, 256, 512)}
    values["training"] = {"bytes": 1, "bits_per_byte": 1.0, "time_s": 1.0}
    frames = suite.table([replace(old, values=values)])
    assert "measured before this table was there" in next(f for t, f in frames.items() if t.startswith("Effective")).note[0]


def whole(bits: dict[int, list[float]], further: object = None) -> Record:
    """A record with all that the tables of extrapolation read."""
    made = record("retnet/torch_parallel", bits | {64: [1.0], 128: [1.0], 256: [1.0]})
    far = {"further": {"context": 2048, "windows": [1, 3], "bits": further}} if further else {}
    values = {**made.values, "horizon": 32, "parameters": 1, "score": 0.1, **far}
    values["recall"] = {str(distance): [0.5, 0.25] for distance in (16, 32, 64, 128, 256, 512)}
    values["training"] = {"bytes": 1, "bits_per_byte": 1.0, "time_s": 1.0}
    return replace(made, values=values)


def test_what_is_unequal_in_training_is_noted():
    of = whole({32: [1.0], 512: [1.0]})
    frames = suite.table([replace(of, values={**of.values, "parameters": 41_600, "beside_parameters": 256**3})])
    (note,) = next(f for t, f in frames.items() if t.startswith("Training"))["note"]
    assert note == "beside its parameters 16,777,216 numbers of its state_dict, which training may fill"


def test_samples_that_are_stored_as_words_do_not_break_a_table():
    assert suite.rows.entry("32", [["nan", 1.0, 1.0]]) == {"32": 1.0, "32 ±": 0.0}
    known = {"trained": {"second half": ["nan", 1.0, 1.0]}}
    others = [learned("automata", "lstm_lm/torch_lstm", seed, trained={"second half": [0.5, 0.5]}) for seed in range(2)]
    told = in_contexts(*others, *(learned("automata", seed=seed, **known) for seed in range(2)))
    assert told == {"a transformer learns unseen automata better than an LSTM": "shows"}


def test_the_farthest_context_is_compared_in_the_windows_that_reach_it():
    bits = {32: [1.0, 2.0, 3.0, 4.0], 512: [1.0, 2.0, 3.0, 4.0]}
    frame = next(iter(suite.table([whole(bits, [2.5, 4.5])]).values()))
    assert frame[["2048 less 512", "2048 less 512 ±"]].to_numpy().tolist() == [[0.5, 0.0]]
    ended = next(iter(suite.table([whole(bits, "it ends")]).values()))
    assert ended["note"].tolist() == ["it ends"]
    assert ended["2048 less 512"].isna().all()
    assert "2048 less 512" not in next(iter(suite.table([whole(bits)]).values()))
