"""The long-context suite at its smallest: trains, measures, repeats from the store and the cache, takes text of one's own."""

import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch

from harness import catalogue, terms, text
from harness.cell import Cell
from harness.store import Store

WORDS = ["suite=long-context", "scale=smoke"]
suite = catalogue.load(catalogue.find("suite", "long-context").path)


def harness(*words: str, cwd: Path, cache: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "harness", *words]
    environment = {"HARNESS_CACHE": str(cache), "PATH": "/usr/bin:/bin"}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, check=False, timeout=900)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("long")
    said = harness("run", *WORDS, cwd=place, cache=place / "cache")
    assert said.returncode == 0, said.stdout + said.stderr
    (place / "said.txt").write_text(said.stdout)
    return place


def measured(place: Path) -> list:
    """The records of all but the kernels, which are interpreted here and not trained."""
    records = list(Store(place / "results").read())
    assert {r.cell.subject: r.outcome for r in records if r.outcome != "ok"} == {"transformer_rope/triton_flash": "unsupported"}
    return [record for record in records if record.outcome == "ok"]


@pytest.mark.xdist_group("long-context")
def test_every_language_model_has_a_row_in_every_table(place: Path):
    bits = pd.read_csv(next(place.glob("results/tables/*/long-context.smoke.bits-per-byte-at-a-context*.csv")))
    assert {"model", "32", "32 ±", "512", "horizon"} <= set(bits.columns)
    assert {name.partition("/")[0] for name in bits.model} >= {
        "transformer_rope",
        "transformer_alibi",
        "transformer_learned",
        "retnet",
    }
    learned = bits[bits.model.str.startswith("transformer_learned")].iloc[0]
    assert learned["horizon"] == 32
    assert pd.isna(learned["64"])
    assert learned["note"] == "learned positions end at 32"
    kernels = bits.model == "transformer_rope/triton_flash"
    assert bits["note"][kernels].tolist() == [
        "unsupported: its kernels are interpreted on the CPU: there they are judged, not trained or timed"
    ]
    assert bits["32"][~kernels].between(1, 7).all(), "nothing was learned, or too much"
    files = [file.suffix for file in place.glob("results/tables/*/*")]
    assert (files.count(".md"), files.count(".csv"), files.count(".png")) == (1, 7, 4)
    fades = pd.read_csv(next(place.glob("results/tables/*/*.analytic-decay.csv"))).set_index("model")
    assert fades["k = 32"]["retnet/torch_parallel"] == 0.604, "of two heads, (1 - 2^-6)^32"
    assert not {"transformer_rope/torch_sdpa", "lstm_lm/torch_lstm"} & set(fades.index), "these fade by no formula"
    assert "written: results/tables/" in (place / "said.txt").read_text()


@pytest.mark.xdist_group("long-context")
def test_records_hold_samples_and_the_digest_of_the_text(place: Path):
    for record in measured(place):
        assert len(record.digests["text"]) == 16
        assert len(record.values["bits_per_byte"]["32"]) == 16
        if record.cell.spec == "retnet":  # whose weights no other model takes
            assert record.values["training"]["weights"] == "trained in this run"


@pytest.mark.xdist_group("long-context")
def test_a_second_run_answers_from_the_store(place: Path):
    began = time.monotonic()
    said = harness("run", *WORDS, cwd=place, cache=place / "cache")
    took = time.monotonic() - began
    count = len(list(Store(place / "results").read()))
    assert f"{count} cells: {count - 1} ok, 1 unsupported ({count} from the store)" in said.stdout
    assert took < 30, "the second run does not answer from the store"


@pytest.mark.xdist_group("long-context")
def test_asking_again_does_not_train_again(place: Path):
    harness("run", *WORDS, "impl=torch_parallel", "spec=retnet", "rerun=true", cwd=place, cache=place / "cache")
    *_, last = Store(place / "results").read()
    assert last.values["training"]["weights"] == "kept from an earlier run"


@pytest.mark.xdist_group("long-context")
def test_text_of_ones_own(place: Path):
    own = place / "own.txt"
    own.write_text("the cat sat on the mat and looked at the moon. " * 3000)
    words = [*WORDS, "spec=retnet", f"text={own}", "results=own"]
    said = harness("run", *words, cwd=place, cache=place / "cache")
    assert said.returncode == 0, said.stdout + said.stderr
    own.write_text("short")
    said = harness("run", *words, cwd=place, cache=place / "cache")
    assert said.returncode == 2
    assert "is too small for contexts of 512 bytes" in said.stderr


@pytest.mark.parametrize("scale", ["smoke", "default", "full"])
def test_the_default_text_has_room_for_the_windows_of_each_scale(scale: str):
    of = Cell("long-context", "retnet", "torch_parallel", settings={"scale": scale, "text": ""})
    assert suite.text_of(of).digest == text.standard_library().digest


@pytest.mark.xdist_group("long-context")
def test_training_is_on_equal_terms(place: Path):
    records = measured(place)
    parameters = [record.values["parameters"] for record in records]
    assert max(parameters) <= 1.05 * 41_600, "a model has over 5 % more parameters than wanted"
    assert min(parameters) >= 0.95 * 41_600, "a model has over 5 % fewer parameters than wanted"
    for record in records:
        told = record.values["training"]
        assert set(told["search"]) == {"0.003", "0.01"}
        assert told["lr"] == float(min(told["search"], key=told["search"].get)), "not the best of the rates that were tried"


@pytest.mark.parametrize("scale", ["smoke", "default", "full"])
@pytest.mark.parametrize("memory", [False, True])
def test_the_budget_of_a_scale_is_that_of_a_transformer_with_f_of_4_d(scale: str, memory: bool):
    sizes = suite.scales.SCALES[scale]["memory"] if memory else suite.scales.SCALES[scale]
    cell = Cell("long-context", "transformer_rope", "torch_sdpa", dtype="float32")
    case = catalogue.load_spec(cell.spec).case("plain").resized({"v": 256, **sizes["model"], "f": 4 * sizes["model"]["d"]})
    assert sum(p.numel() for p in terms.fresh(cell, case, 0).parameters()) == sizes["parameters"]


def test_every_training_starts_from_first_values():
    cell = Cell("long-context", "transformer_rope", "torch_sdpa", dtype="float32")
    case = catalogue.load_spec("transformer_rope").case("plain")
    trained, again = terms.fresh(cell, case, 0), terms.fresh(cell, case, 0)
    with torch.no_grad():
        for weight in trained.parameters():
            weight.fill_(7.0)
    assert not any((weight == 7.0).all() for weight in again.parameters()), "a search would hand its weights on"


@pytest.mark.xdist_group("long-context")
def test_a_model_that_takes_weights_starts_where_their_own_ended(place: Path):
    by_name = {record.cell.subject: record.values for record in measured(place)}
    plain = by_name["transformer_rope/torch_sdpa"]
    taken = by_name["transformer_lm_infinite/torch_blocks"]
    assert taken["training"]["weights_of"] == "transformer_rope/torch_sdpa"
    assert taken["bits_per_byte"]["32"] == plain["bits_per_byte"]["32"], "within the training length it is the same model"
    assert taken["bits_per_byte"]["512"] != plain["bits_per_byte"]["512"]
    tuned = by_name["transformer_interpolated/torch_sdpa:by_16_fine_tuned"]
    assert tuned["training"]["fine_tuned"] == {"steps": 2, "length": 512, "bytes": 1024}
    assert tuned["bits_per_byte"]["32"] != by_name["transformer_interpolated/torch_sdpa:by_16"]["bits_per_byte"]["32"]
