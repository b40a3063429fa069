"""suite=memory: peaks are those of known allocations, states those of the tensors carried, and no failure leaves the table."""

from pathlib import Path
from typing import Any

import pytest

from harness import catalogue, worker
from harness.cell import OK, WRONG, Cell, Record

suite = catalogue.load(catalogue.find("suite", "memory").path)
KIB = 1024
ROPE = "transformer_rope/torch_sdpa"


def cell(implementation: str, spec: str, variant: str = "", **asked: Any) -> Cell:
    case, dtype = asked.pop("case", "plain"), asked.pop("dtype", "float32")
    settings = {"scale": "smoke", "threads": 1, "form": "forward", "batch": 1, "length": 64} | asked
    return Cell("memory", spec, implementation, variant, case, dtype, settings=settings)


def values(*words: Any, **asked: Any) -> dict[str, Any]:
    answer = worker.asked(cell(*words, **asked))
    assert answer.outcome == OK, answer.note
    return dict(answer.values)


def hungry(folder: Path, mib: int, gradients: bool = True) -> str:
    path = folder / f"takes_{mib}.py"
    path.write_text(
        f'''"""Layer norm that takes so many MiB on the way, and gives them back."""
import torch
gradients = {gradients}
def prepare(case):
    def run(x, weight, bias):
        torch.empty({mib} * 2**18)
        return torch.nn.functional.layer_norm(x, (case.d,), weight, bias)
    return run
'''
    )
    return str(path)


def test_the_peak_is_that_of_known_allocations(tmp_path: Path):
    own = values("torch_layer_norm", "layer_norm")["peak_bytes"]
    assert own == 64 * 512 * 4 + 2 * 64 * 4, "the output, and mean and spread of 64 rows"
    assert values(hungry(tmp_path, 0), "layer_norm")["peak_bytes"] == own
    assert values(hungry(tmp_path, 5), "layer_norm")["peak_bytes"] == 5 * KIB * KIB, "given back before the output is made"


def test_the_peak_of_training_has_gradients(tmp_path: Path):
    forward, training = (values("torch_layer_norm", "layer_norm", form=form)["peak_bytes"] for form in ("forward", "training"))
    gradients = 64 * 512 * 4 + 2 * 512 * 4
    assert forward + gradients <= training <= forward + gradients + 8 * KIB
    answer = worker.asked(cell(hungry(tmp_path, 1, gradients=False), "layer_norm", form="training"))
    assert (answer.outcome, answer.note) == ("unsupported", "claims no gradients here")


def test_a_step_of_attention_carries_all_keys_and_values():
    for length, case in ((16, "causal"), (64, "causal"), (64, "window")):
        asked = {"form": "step", "length": length, "case": case}
        assert values("plain", "attention", **asked)["state_bytes"] == 2 * (4 * length * 64) * 4


@pytest.mark.parametrize(
    ("spec", "implementation", "carried"),
    [
        ("retention", "recurrent", 4 * 64 * 64),
        ("linear_attention", "recurrent", 4 * 64 * 64 + 4 * 64),
        ("wkv", "recurrent", 2 * 4 * 256),
        ("lstm", "torch_lstm", 2 * 4 * 128),
    ],
)
def test_a_step_of_what_is_recurrent_carries_the_same_at_every_length(spec: str, implementation: str, carried: int):
    assert {values(implementation, spec, form="step", length=length)["state_bytes"] for length in (16, 64)} == {4 * carried}


def test_language_models_carry_what_their_mixers_do():
    """Two layers of width 32 with two heads of 16."""
    for length in (16, 64):
        rope = values("torch_sdpa", "transformer_rope", form="step", length=length)
        assert rope["state_bytes"] == 2 * 2 * (length * 32) * 4, "keys and values"
        retnet = values("torch_parallel", "retnet", form="step", length=length)
        assert retnet["state_bytes"] == 2 * (2 * 16 * 16) * 4, "a product of 16 by 16 numbers a head"
    assert rope["weights_bytes"] == 4 * rope["parameters"] == 4 * 41_600
    assert "state_bytes" not in values("torch_sdpa", "transformer_rope")


QUANTIZED = Path("implementations/transformer_quantized/torch_plain.py")
FORWARD = "def forward(self, x: Tensor) -> Tensor:\n        return F.linear(x, self.matrix(), self.bias)"


def keeps_floats(folder: Path) -> str:
    """The quantized transformer, right in all it answers, whose layers keep beside their codes what comes back from them."""
    path, text = folder / "keeps_floats.py", (catalogue.HOME / QUANTIZED).read_text()
    assert FORWARD in text
    path.write_text(
        text.replace(
            FORWARD,
            "def forward(self, x: Tensor) -> Tensor:\n"
            "        self.whole = self.matrix()\n"
            "        return F.linear(x, self.whole, self.bias)",
        )
    )
    return str(path)


def quantized(name: str, variant: str, **asked: Any) -> Record:
    """What was weighed, as of the implementation that claims speak of."""
    told = values(name, "transformer_quantized", variant, **asked)
    return record(f"transformer_quantized/torch_plain:{variant}", 64, told)


def test_quantized_weights_are_as_small_as_the_papers_say(tmp_path: Path):
    rope = values("torch_sdpa", "transformer_rope")
    assert rope["bits_per_weight"] == 32
    honest = [quantized("torch_plain", variant) for variant in ("nf4", "nf4_double", "llm_int8_codes")]
    assert honest[0].values["bits_per_weight"] == 4.5
    assert {r.values["parameters"] for r in honest} == {rope["parameters"]}
    unquantized = record("transformer_rope/torch_sdpa", 64, rope)
    tables = suite.table([unquantized, *honest])
    found = tables["What the papers claim"].set_index("of")
    assert set(found["here"]) == {"shows"}
    assert len(found) == len(suite.OF_WEIGHTS) == 3
    of = f"{ROPE} forward at 64 over transformer_quantized/torch_plain:nf4 forward at 64"
    assert found.loc[of, "ratio here"] == "7.11"
    (frame,) = (frame for name, frame in tables.items() if name.startswith("language models"))
    rows = frame.set_index("implementation")
    assert rows.loc[ROPE, "weights KiB"] == round(4 * 41_600 / KIB, 1)
    assert rows.loc["transformer_quantized/torch_plain:nf4", "bits a weight"] == 4.5
    matrices = 8 * (rope["weights_bytes"] - honest[0].values["weights_bytes"]) / (32 - 4.5)
    assert matrices == 41_600 - 2 * 256 * 32 - (2 * 4 + 2) * 32 - 2 * (32 + width(rope)), "all but the matrices is as it was"


def width(rope: dict[str, Any]) -> int:
    """f of a model of the smallest scale: two matrices and a bias of it in each of two layers, beside what hangs on no f."""
    besides = 2 * 256 * 32 + 2 * 32 + 2 * (4 * 32 * 32 + 5 * 32)
    return (rope["parameters"] - besides) // (2 * (2 * 32 + 1))


def test_a_layer_that_keeps_floats_refutes_the_claim(tmp_path: Path):
    unquantized = record(ROPE, 64, values("torch_sdpa", "transformer_rope"))
    (row,) = suite.table([unquantized, quantized(keeps_floats(tmp_path), "nf4")])["What the papers claim"].to_dict("records")
    assert (row["here"], row["ratio here"]) == ("refuted", "0.877"), "36.5 bits, of 32"


def test_the_paper_s_llm_int8_keeps_its_matrices():
    told = values("torch_plain", "transformer_quantized", "llm_int8")
    assert told["bits_per_weight"] == 32


def test_two_times_the_same_is_the_same():
    asked = {"form": "training", "case": "causal"}
    assert values("plain", "attention", **asked) == values("plain", "attention", **asked)


def test_what_is_compiled_as_a_whole_is_weighed_though_it_cannot_be_watched():
    assert values("flex", "attention", case="causal", length=16)["peak_bytes"] > 0


def test_what_is_wrong_is_not_weighed(tmp_path: Path):
    path = hungry(tmp_path, 0)
    Path(path).write_text(Path(path).read_text().replace("weight, bias)\n    return", "bias, weight)\n    return"))
    answer = worker.asked(cell(path, "layer_norm"))
    assert answer.outcome == WRONG
    assert answer.note.startswith("not weighed: out[b=")
    assert "peak_bytes" not in answer.values


def record(subject: str, n: int, told: dict[str, Any] | None, outcome: str = OK, note: str = "", **asked: Any) -> Record:
    spec, _, name = subject.partition("/")
    implementation, _, variant = name.partition(":")
    asked_of = cell(implementation, spec, variant, length=n, **asked)
    return Record(asked_of, outcome, told or {}, note, {}, "machine", {}, 1.0, "2026-01-01", "run")


def weighed(subject: str, power: int, times: int = 100, **asked: Any) -> list[Record]:
    return [record(subject, n, {"peak_bytes": times * n**power, "flops": 1, "bytes": 1}, **asked) for n in (16, 32, 64)]


def test_a_table_has_exact_growth_and_keeps_every_failure():
    records = [
        *weighed("retention/recurrent", 1),
        *weighed("retention/parallel", 2)[:2],
        record("retention/parallel", 64, None, "out_of_memory", "asked for more memory than allowed"),
        record("retention/fla", 64, None, "unsupported", "runs on cuda, not on cpu"),
    ]
    (frame,) = suite.table(records).values()
    rows = frame.set_index("implementation")
    assert set(rows.index) == {"retention/recurrent", "retention/parallel", "retention/fla"}
    assert rows.loc["retention/recurrent"][["exponent", "declared", "verdict"]].tolist() == ["1.00", "N", "confirmed"]
    assert rows.loc["retention/parallel"]["note"] == "out of memory: asked for more memory than allowed (at 64)"
    assert rows.loc["retention/parallel"]["verdict"] == "cannot tell: fewer than 3 lengths"
    assert rows.loc["retention/fla"]["note"] == "unsupported: runs on cuda, not on cpu"
    assert rows.loc["retention/recurrent"]["64"] == round(6400 / KIB, 1)


def test_states_have_columns_of_their_own_and_a_step_declares_no_peak():
    told = [record("retention/recurrent", n, {"peak_bytes": 10, "state_bytes": 2048}, form="step") for n in (16, 32, 64)]
    (frame,) = suite.table(told).values()
    row = frame.iloc[0]
    assert row[["state KiB", "state exponent", "state declared", "state verdict"]].tolist() == [2.0, "0.00", "1", "confirmed"]
    assert row["declared"] is None


def test_what_is_kept_between_calls_has_a_column_where_there_is_any():
    records = [
        record(f"rotary/{name}", 64, {"peak_bytes": 4096, "held_bytes": n}) for name, n in (("pairs", 2048), ("complex", 0))
    ]
    (frame,) = suite.table(records).values()
    assert frame.set_index("implementation")["kept KiB"].dropna().to_dict() == {"rotary/pairs": 2.0}
    (frame,) = suite.table(records[1:]).values()
    assert "kept KiB" not in frame


def test_claims_of_states_and_peaks():
    cache = [record("transformer_rope/torch_sdpa", n, {"peak_bytes": 1, "state_bytes": n}, form="step") for n in (16, 64)]
    constant = [record("retnet/torch_parallel", n, {"peak_bytes": 1, "state_bytes": 7}, form="step") for n in (16, 64)]
    plain = weighed("attention/plain", 2, case="causal")
    flash = weighed("attention/torch_sdpa:flash", 1, case="causal")
    found = suite.table([*cache, *constant, *plain, *flash])["What the papers claim"]
    assert set(found["here"]) == {"shows"}
    assert len(found) == 4


def test_every_claim_names_what_there_is():
    known = catalogue.implementations()
    for claim in (*suite.OF_PEAKS, *suite.OF_STATES, *suite.OF_WEIGHTS):
        for side in (claim.more, claim.less):
            full, _, variant = side.subject.partition(":")
            assert full in known, side.subject
            assert variant in known[full].facts.get("variants", {"": {}}), side.subject


def test_pictures_of_peaks_and_of_states(tmp_path: Path):
    states = [record("retention/recurrent", n, {"peak_bytes": 10, "state_bytes": 2048}, form="step") for n in (16, 32, 64)]
    drawn = suite.pictures([*weighed("retention/parallel", 2), *states])
    assert set(drawn) == {"retention", "retention state"}
    for name, figure in drawn.items():
        figure.savefig(tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000
