"""An audit: what survives is reported with its place, an argument counts, one that does not hold is reported."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from harness import audit, catalogue, mutants
from harness.audit import OURS, Audit, Wrong
from harness.spec import Spec

NORM: Spec = catalogue.load_spec("rms_norm")
CHEAP = {"cases": ["one_row", "two_wide"], "families": ["normal", "faint"]}


def asked(**chosen) -> Audit:
    it = Audit(["rms_norm"], **(CHEAP | chosen))
    it.run(1)
    return it


@pytest.fixture(scope="module")
def first() -> Audit:
    return asked()


def test_what_no_question_shows_survives(first: Audit):
    """Two tiny cases do not show everything, and what they do not show is said with its place and how it reads."""
    survived = {one.name for one in first.wrong if one.status == "survived"}
    assert "squares beyond the range of float16 are clamped" in survived
    said = audit.complaints(first)
    assert "rms_norm: nothing catches 'squares beyond the range of float16 are clamped'" in said
    assert "bfloat16: the answers are those of the reference in every question, bit for bit" in said
    assert said.endswith("Audit one spec again: harness audit rms_norm")


def test_a_mutant_that_survives_is_shown_where_it_is(monkeypatch: pytest.MonkeyPatch):
    mutant = next(m for m in mutants.mutants(NORM) if m.name.endswith("+ eps -> x.square().mean(-1, keepdim=True) - eps"))
    one = Wrong("rms_norm", mutant.name, "float32", f"{mutant.file}:{mutant.line}", closest=(0.3, "plain", "normal"))
    it = Audit(["rms_norm"])
    it.wrong = [one]
    said = audit.complaints(it).splitlines()
    assert said[1].startswith("  at harness/specs/rms_norm.py:")
    assert said[2] == "  - return weight * x / torch.sqrt(x.square().mean(-1, keepdim=True) + eps)"
    assert said[3] == "  + return weight * x / torch.sqrt(x.square().mean(-1, keepdim=True) - eps)"
    assert said[4] == "  float32: comes nearest with score 0.3 in case plain, inputs normal"


def test_an_argument_counts_if_nothing_catches_the_mutant(monkeypatch: pytest.MonkeyPatch):
    names = [mutant.name for mutant in mutants.mutants(NORM)]
    minus = next(name for name in names if name.endswith("- eps"))
    total = next(name for name in names if ".sum(" in name)
    module = sys.modules[NORM.function.__module__]
    arguments = {f"{minus}, bfloat16": "eps is small", total: "a sum is a mean", "rms_norm: gone -> away": "is no mutant"}
    monkeypatch.setattr(module, "EQUIVALENT", arguments, raising=False)
    it = asked(cases=["one_row"], families=["normal"])
    status = {(one.name, one.dtype): one.status for one in it.wrong}
    assert status[minus, "bfloat16"] == "equivalent"
    assert status[total, "bfloat16"] == status[total, "float32"] == "caught"
    problems = it.problems()
    assert len(problems) == 3
    assert problems[0].startswith(f"rms_norm: {total!r} is said to be equivalent, but is caught in case one_row, inputs normal")
    assert problems[2] == "rms_norm: there is no mutant 'rms_norm: gone -> away', but EQUIVALENT argues about it"


def test_every_status_is_in_the_denominator(first: Audit):
    found = audit.tables(first)
    counts = found["What became of wrong functions"].set_index("kind")
    assert (counts.caught + counts.equivalent + counts.survived == counts["all"]).all()
    assert counts.loc["mistakes", "all"] == len(NORM.mistakes)
    assert counts.loc["mutants", "all"] == len(mutants.mutants(NORM))
    let = found["How many wrong functions each rule lets through"]
    assert (let["wrong functions"] == len(first.wrong) / 2).all()


def test_asked_in_full_each_case_and_family_gets_its_share(tmp_path: Path):
    it = asked(full=True)
    files = audit.write(it, tmp_path)
    page = files[0].read_text()
    assert files[0] == tmp_path / "audit" / "README.md"
    assert "do not edit" in page.splitlines()[2]
    shares = pd.read_csv(tmp_path / "audit" / "what-each-family-catches.csv").set_index("family")
    assert set(shares.index) == {"normal", "faint"}
    assert (shares.caught <= shares.of).all()
    plain = pd.read_csv(tmp_path / "audit" / "how-often-each-rule-rejects-plain-code-in-the-tested-dtype.csv")
    assert (plain.questions == 4).all()
    caught = sum(one.status == "caught" for one in it.wrong)
    assert shares.caught.max() <= caught
    assert {one.status for one in it.wrong} == {one.status for one in asked().wrong}


def test_what_is_published_of_other_specs_stays(first: Audit, tmp_path: Path):
    audit.write(first, tmp_path)
    file = tmp_path / "audit" / "what-became-of-wrong-functions.csv"
    file.write_text(file.read_text() + "layer_norm,mistakes,3,0,0,3,0\nno_such_spec,mistakes,3,0,0,3,0\n")
    audit.write(first, tmp_path)
    found = pd.read_csv(file)
    assert list(found.spec) == ["layer_norm", "rms_norm", "rms_norm"]
    assert "| layer_norm" in (tmp_path / "audit" / "README.md").read_text()
    in_full = tmp_path / "audit" / "what-each-family-catches.csv"
    in_full.write_text("spec,family,caught\nlayer_norm,faint,3\nrms_norm,faint,2\n")
    audit.write(first, tmp_path)
    assert list(pd.read_csv(in_full).spec) == ["layer_norm"], "asked less now, so what it caught by family is not known"
    assert "## What each family catches" in (tmp_path / "audit" / "README.md").read_text()


def test_a_table_without_rows_is_no_file_and_that_nothing_survived_is_said(tmp_path: Path):
    it = Audit(["rms_norm"])
    it.wrong = [Wrong("rms_norm", "m", "float32", "f:1")]
    survived = tmp_path / "audit" / "what-survived.csv"
    audit.write(it, tmp_path)
    assert survived.exists()
    it.wrong[0].heard("plain", "normal", [OURS], 9.0, "score 9")
    page = audit.write(it, tmp_path)[0].read_text()
    assert ("Nothing survived." in page, "## What survived" in page, survived.exists()) == (True, False, False)


def test_a_wrong_function_that_survives_in_one_dtype_has_survived():
    it = Audit(["rms_norm"])
    it.wrong = [Wrong("rms_norm", "m", dtype, "f:1") for dtype in ("float32", "bfloat16")]
    it.wrong[0].heard("plain", "normal", [OURS], 9.0, "score 9")
    counts = audit.tables(it)["What became of wrong functions"].iloc[0]
    assert (counts.caught, counts.survived, counts["all"]) == (0, 1, 1)


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["rms_norm", "case=one_row", "family=normal"], 1, "rms_norm: nothing catches 'eps is forgotten'"),
        (["rms_nrm"], 2, "harness: no spec named 'rms_nrm'. Did you mean 'rms_norm'?"),
        (["rms_norm", "case=plane"], 2, "harness: no case named 'plane' here. Did you mean 'plain'?"),
        (["rms_norm", "seed=1"], 2, "harness: an audit takes no 'seed'."),
    ],
)
def test_the_command_line(words: list[str], status: int, said: str):
    command = [sys.executable, "-m", "harness", "audit", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert (done.returncode, said in done.stderr) == (status, True), done.stderr


def test_a_spec_without_survivors_leaves_nothing_to_say():
    done = subprocess.run(
        [sys.executable, "-m", "harness", "audit", "rms_norm", "dtype=float32"],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "mutants" in done.stdout
