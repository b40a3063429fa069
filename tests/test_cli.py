"""The command line as a person meets it: answers, messages (pinned), exit status."""

import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from harness import cli, machine, show
from harness.cell import Cell, Record
from harness.store import Store

COSTED = {"scale": "default", "threads": 1, "form": "forward", "batch": 1}
WRONG = '''"""An attention that is aligned upper left."""

import torch

spec = "attention"
gradients = False


def prepare(case):
    def run(q, k, v, bias=None):
        k, v = (t.repeat_interleave(q.shape[1] // k.shape[1], 1).float() for t in (k, v))
        score = q.float() @ k.mT * q.shape[-1] ** -0.5
        if case.visibility == "causal":
            score = score.masked_fill(torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).triu(1), -torch.inf)
        return (score.softmax(-1) @ v).to(case.dtype)

    return run
'''

SUITES = "correctness, in-context-learning, kernels, long-context, memory, speed"


def harness(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "harness", *words], capture_output=True, text=True, cwd=cwd, check=False, timeout=120
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["run", "suite=correctnes"],
            f"harness: no suite named 'correctnes'. Did you mean 'correctness'?\n  known: {SUITES}\n",
        ),
        (["run", "sute=correctness"], f"harness: which suite? Say suite=NAME.\n  known: {SUITES}\n"),
        (
            ["plan", "suite=long-context", "scale=smok"],
            "harness: no scale named 'smok'. Did you mean 'smoke'?\n  known: smoke, default, full\n",
        ),
        (
            ["plan", "suite=correctness", "seed=one"],
            "harness: seed=one is no list of whole numbers from 0 to 2147483647, such as seed=0,1,2\n",
        ),
        (
            ["plan", "suite=correctness", "spec=attention", "impl=plain", "variant=flash"],
            "harness: no variant named 'flash': there is none here.\n  Leave variant= out\n",
        ),
        (["plan", "suite=correctness", "workers=some"], "harness: workers=some should be a whole number, 0 or more\n"),
        (
            ["plan", "suite=correctness", "device=gpu"],
            "harness: no device named 'gpu'. Did you mean 'cpu'?\n  known: cpu, cuda, auto\n",
        ),
        (
            ["list", "spec"],
            "harness: cannot list 'spec'. Did you mean 'specs'?\n  known: specs, implementations, suites\n",
        ),
        (
            ["run", "suite=correctness", "spec=rotary", "case=plan"],
            "harness: no case named 'plan'. Did you mean 'plain'?\n"
            "  known: plain, one_step, wide, narrow, whole_tiles, even_heads, odd_widths, far, very_far, million, million_wide, "
            "many_rows, base\n",
        ),
        (
            ["check", "nowhere.py", "spec=attention"],
            "harness: no file 'nowhere.py' to take an implementation from.\n"
            "  Make one: harness new implementation nowhere spec=attention\n",
        ),
        (["check", ""], "harness: . is a folder; give the file: harness check FILE.py\n"),
        (
            ["table", "suite=correctness", "out=."],
            "harness: out=. is a folder; give the file: out=table.text\n",
        ),
        (
            ["table", "suite=speed", "spec=rotary"],
            f"harness: nothing is stored of speed for this selection on {machine.name()}.\n"
            "  Measure it: harness run suite=speed\n",
        ),
        (
            ["again", "0123456789"],
            "harness: no record has the key '0123456789' in results/.\n"
            "  See which there are: harness table suite=NAME, or run the suite again\n",
        ),
        (
            ["again", "0123456789", "rotary"],
            "harness: 'rotary' is no setting; settings are written key=value.\n  known: results, timeout, memory\n",
        ),
    ],
    ids=lambda value: "_".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_request_teaches_and_exits_with_2(words: list[str], message: str, tmp_path: Path):
    said = harness(*words, cwd=tmp_path)
    assert said.stderr == message
    assert said.returncode == 2


def test_a_folder_of_results_that_is_a_link_to_nowhere_is_refused(tmp_path: Path):
    (tmp_path / "results").symlink_to("nowhere")
    said = harness("plan", "suite=correctness", "spec=rotary", cwd=tmp_path)
    assert said.stderr == "harness: results=results is a link to nowhere.\n  Give another: results=FOLDER\n"
    assert said.returncode == 2


def test_an_interruption_before_anything_is_asked_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.catalogue, "specs", interrupted)
    monkeypatch.setattr(cli.sys, "argv", ["harness", "list", "specs"])
    monkeypatch.setattr(cli.signal, "signal", lambda *told: None)
    with pytest.raises(SystemExit, match="130"):
        cli.main()
    assert capsys.readouterr().err == "\nharness: interrupted\n"


@pytest.mark.parametrize("words", [["table", "suite=correctness"], ["score", "rotary/complex"]], ids=lambda words: words[0])
def test_a_pattern_of_machines_is_refused(words: list[str], tmp_path: Path):
    """It would set records of several machines in one table."""
    said = harness(*words, "machine=*", cwd=tmp_path)
    assert said.stderr.startswith("harness: machine=* is not the name of one machine, and records of several are not mixed.\n  ")
    assert said.returncode == 2


def test_an_unknown_setting_gets_a_suggestion(tmp_path: Path):
    said = harness("run", "suite=correctness", "spce=attention", cwd=tmp_path)
    assert said.stderr.startswith("harness: no setting named 'spce'. Did you mean 'spec'?\n  known: suite, spec, impl")
    assert said.returncode == 2


def test_a_new_implementation_runs_at_once(tmp_path: Path):
    made = harness("new", "implementation", "mine", "spec=rotary", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert "Judge it: harness check mine.py spec=rotary" in made.stdout
    judged = harness("check", "mine.py", "spec=rotary", "case=plain", cwd=tmp_path)
    assert judged.returncode == 0, judged.stdout + judged.stderr
    assert not (tmp_path / "results").exists(), "check stores nothing"
    again = harness("new", "implementation", "mine", "spec=rotary", cwd=tmp_path)
    assert again.returncode == 2, "an existing file is never overwritten"


@pytest.mark.parametrize("spec", ["attention", "transformer_streaming", "language_model"])
def test_a_new_implementation_is_plain_torch(spec: str):
    """Nothing of what this project plans to measure of its own is in it."""
    text = show.beginning(spec)
    compile(text, "mine.py", "exec")
    for word in ("import triton", "requires =", "variants =", "weights_of =", "compiles ="):
        assert word not in text


def test_a_wrong_file_is_told_where_and_how_to_repeat_it(tmp_path: Path):
    (tmp_path / "mine.py").write_text(WRONG)
    said = harness("check", "mine.py", "case=longer_past", "dtype=float32", "family=normal", cwd=tmp_path)
    assert said.returncode == 1
    lines = said.stderr.strip().splitlines()
    assert lines[-5] == "attention/mine.py is wrong in case longer_past, float32"
    assert lines[-4].startswith("  out[b=")
    assert "but should be" in lines[-4]
    assert "allowed 1 (rounding budget of float32 on this input)" in lines[-3]
    assert " of elements wrong" in lines[-2] or lines[-2] == "  every element wrong"
    assert lines[-1] == "  again: harness check mine.py spec=attention case=longer_past dtype=float32 family=normal"


def test_run_stores_again_repeats_and_table_prints(tmp_path: Path):
    (tmp_path / "mine.py").write_text(WRONG)
    words = ["suite=correctness", "spec=attention", "impl=./mine.py", "case=plain,longer_past", "dtype=float32", "family=normal"]
    ran = harness("run", *words, cwd=tmp_path)
    assert ran.returncode == 1
    assert "2 cells: 1 ok, 1 wrong (0 from the store)" in ran.stdout
    key = ran.stderr.strip().splitlines()[-1].removeprefix("  again: harness again ")
    assert "is wrong in case longer_past, float32" in harness("again", key, cwd=tmp_path).stdout
    second = harness("run", *words, cwd=tmp_path)
    assert "(2 from the store)" in second.stdout
    assert second.returncode == 1, "a stored failure is a failure still"
    third = harness("run", *words, "tables=false", cwd=tmp_path)
    assert (third.returncode, third.stdout) == (1, "2 cells: 1 ok, 1 wrong\n"), "who asks for records alone pays for no table"
    for form, word in (("markdown", "|"), ("csv", "implementation,float32"), ("latex", r"\toprule"), ("html", "<table>")):
        assert word in harness("table", *words, f"format={form}", cwd=tmp_path).stdout
    pages = list(tmp_path.glob("results/tables/*/correctness.*"))
    assert {page.suffix for page in pages} == {".md", ".csv"}
    lines = next(tmp_path.glob("results/records/*/correctness.jsonl")).read_text().splitlines()
    assert {"cell", "digests", "key", "machine", "outcome", "values", "versions"} <= set(json.loads(lines[0]))


def test_what_a_run_did_not_ask_again_stays_in_the_written_table(tmp_path: Path):
    words = ["run", "suite=correctness", "spec=rms_norm", "impl=torch_rms_norm", "case=plain", "dtype=float32"]
    for narrow in (["family=normal"], ["family=large", "seed=1"]):
        assert harness(*words, *narrow, cwd=tmp_path).returncode == 0
    page = next(tmp_path.glob("results/tables/*/correctness.md")).read_text()
    assert "2 cells" in page, "the second run left the first one's out"


def test_a_table_of_nothing_says_what_is_stored_otherwise_and_which_lines_are_no_records(tmp_path: Path):
    cells = [
        Cell("speed", "rms_norm", "torch_plain", "", "plain", "float32", settings={**COSTED, "length": n}) for n in (128, 512)
    ]
    store, told = Store(tmp_path / "results"), {"versions": {}, "time_s": 1.0, "at": "2026-01-01", "run": "r"}
    for cell, digests in zip(cells, ({"spec": "5bec"}, {"spec": 5}), strict=True):
        store.append(Record(cell, "ok", {"seconds": [0.1]}, "", digests, machine.name(), **told))
    said = harness("table", "suite=speed", "spec=rms_norm", "form=forward", "impl=torch_plain", "batch=4", cwd=tmp_path)
    assert said.returncode == 2
    first, *rest = said.stderr.splitlines()
    assert first == f"1 line is no record and is passed over: results/records/{machine.name()}/speed.jsonl"
    assert rest == [
        f"harness: nothing is stored of speed for this selection on {machine.name()}.",
        "  stored here with: rounds=1, batch=1",
        "  Measure it: harness run suite=speed",
    ]
    where = f"machine={machine.name()}-not"
    said = harness("table", "suite=speed", "spec=rms_norm", where, cwd=tmp_path)
    assert f"\n  machines with records: {machine.name()} (say machine=NAME)\n" in said.stderr


def test_an_edited_implementation_is_asked_again(tmp_path: Path):
    words = ["run", "suite=correctness", "spec=attention", "impl=./mine.py", "case=plain", "dtype=float32", "family=normal"]
    (tmp_path / "mine.py").write_text(WRONG)
    assert "(0 from the store)" in harness(*words, cwd=tmp_path).stdout
    assert "(1 from the store)" in harness(*words, cwd=tmp_path).stdout
    (tmp_path / "mine.py").write_text(WRONG + "\n# another thought\n")
    assert "(1 from the store)" in harness(*words, cwd=tmp_path).stdout, "a comment changes nothing"
    (tmp_path / "mine.py").write_text(WRONG + "\nanother = 'fact'\n")
    assert "(0 from the store)" in harness(*words, cwd=tmp_path).stdout


def test_of_many_names_a_few_are_told(tmp_path: Path):
    said = harness("run", "suite=correctness", "spec=atention", cwd=tmp_path).stderr
    assert said.startswith("harness: no spec named 'atention'. Did you mean 'attention'?\n  near: attention, retention, ")
    assert re.search(r"; all \d+: harness list specs\n$", said)
    said = harness("show", "_decoder", cwd=tmp_path).stderr
    assert len(said) < 300
    assert said.endswith(": harness list\n")


def test_a_file_that_is_no_python_is_a_wrong_request(tmp_path: Path):
    (tmp_path / "mine.py").write_text("def prepare(:\n")
    said = harness("check", "mine.py", "spec=attention", cwd=tmp_path)
    assert said.returncode == 2
    assert "is not Python: invalid syntax (line 1)" in said.stderr


def test_a_file_without_prepare_is_told_so(tmp_path: Path):
    (tmp_path / "mine.py").write_text(textwrap.dedent('"""Empty."""\n'))
    said = harness("check", "mine.py", "spec=rotary", "case=plain", cwd=tmp_path)
    assert said.returncode == 1
    assert "mine.py has no function prepare(case)" in said.stderr


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["run", "suite=correctness", "impl="], "impl= is empty; leave it out, or say impl=VALUE"),
        (["run", "suite=correctness", "spec=rotary", "spec=alibi"], "spec is given twice; a list has commas: spec=rotary,alibi"),
        (["run", "suite=correctness", "workers=-3"], "workers=-3 should be a whole number, 0 or more"),
        (["run", "suite=correctness", "timeout=nan"], "timeout=nan should be a number, 0 or more"),
        (["run", "suite=correctness", "memory=inf"], "memory=inf should be a number, 0 or more"),
        (["run", "suite=correctness", "seed=99999999999999999999"], "is no list of whole numbers"),
        (["run", "suite=correctness", "spec=rotary", "results=/dev/null"], "is not a folder that can be written to"),
        (["plan", "suite=speed", "spec=rms_norm", "threads=4096"], "threads=4096, but "),
        (["check", ".", "spec=rotary"], ". is a folder; give the file"),
        (["new", "implementation", "torch", "spec=rotary"], "'torch' is no name for a module of yours"),
        (["new", "implementation", "class", "spec=rotary"], "'class' is no name for a module of yours"),
        (["check", "os.path", "spec=rotary", "case=plain", "impl=pairs"], "`check` judges os.path alone"),
        (["check", "mine\udcff.py", "spec=rotary"], "is no text in UTF-8.\n  Rename the file"),
    ],
    ids=lambda value: "_".join(value).replace("\udcff", "?") if isinstance(value, list) else "",
)
def test_odd_requests_are_refused_in_a_sentence(words: list[str], part: str, tmp_path: Path):
    said = harness(*words, cwd=tmp_path)
    assert part in said.stderr
    assert "Traceback" not in said.stderr
    assert said.returncode == 2


def test_patterns_may_be_written_out(tmp_path: Path):
    assert harness("plan", "suite=correctness", "spec=rotary", "impl=*", "case=p*", cwd=tmp_path).returncode == 0


@pytest.mark.parametrize(
    ("fact", "part"),
    [
        ('gradients = "yes"', "mine.py says gradients = 'yes', which is not understood.\n  For example: gradients = True"),
        ('dtypes = ("fp32",)', "mine.py says dtypes = ('fp32',), which is not understood"),
        ("variants = 3", "mine.py says variants = 3, which is not understood"),
        ("dtypes = tuple(range(3))", "mine.py:5 dtypes must be a literal"),
    ],
)
def test_facts_that_are_not_understood_are_refused(fact: str, part: str, tmp_path: Path):
    (tmp_path / "mine.py").write_text(f'"""Mine."""\n\nspec: str = "rotary"\n\n{fact}\n\n\ndef prepare(case): ...\n')
    said = harness("check", "mine.py", cwd=tmp_path)
    assert part in said.stderr
    assert said.returncode == 2


def test_a_module_of_a_package_keeps_its_relative_imports(tmp_path: Path):
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "__init__.py").write_text("")
    (tmp_path / "pkg" / "core.py").write_text("def same(x):\n    return x.clone()\n")
    text = "from .core import same\n\n\ndef prepare(case):\n    return lambda x, position: same(x)\n"
    (tmp_path / "pkg" / "turn.py").write_text(f'"""Turns nothing."""\n\n{text}')
    said = harness("check", "pkg.turn", "spec=rotary", "case=plain", "dtype=float32", "family=normal", cwd=tmp_path)
    assert "is wrong in case plain" in said.stderr, said.stderr


def test_why_all_is_unsupported_is_said(tmp_path: Path):
    (tmp_path / "mine.py").write_text('"""Mine."""\n\ndevices = ("cuda",)\n\n\ndef prepare(case): ...\n')
    said = harness("check", "mine.py", "spec=rotary", "case=plain", "device=cpu", cwd=tmp_path)
    assert "rotary/mine.py is unsupported: runs on cuda, not on cpu" in said.stderr
    assert said.returncode == 0
