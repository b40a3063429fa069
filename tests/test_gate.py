"""The gate, on real processes: a repository made here holds a small stand-in for the harness, whose times are made from seeds."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Answers `harness run suite=... results=...` in a few hundredths of a second: what it says stands in costs.py, which tests edit.
STAND_IN = '''
"""Stands in for the harness."""
import importlib.util, json, random, sys, time
from pathlib import Path
from harness.costs import BYTES, CELLS, DRIFT, OUTCOME, SLEEP_S, SLOWER, UNTIL

time.sleep(SLEEP_S)

words = dict(word.split("=", 1) for word in sys.argv[2:])
suite, results = words["suite"], Path(words["results"])
impl = words.get("impl", "*")
chosen = [impl] if "." in impl else [name for name in CELLS if impl in ("*", name)]
if not chosen:
    print(f"harness: no implementation named {words['impl']!r}.", file=sys.stderr)
    sys.exit(2)
for name in chosen:
    settings = {"form": "forward", "length": 256} | ({"round": 0} if suite == "speed" else {})
    rng = random.Random(f"{results.name} {name}")
    process = int(results.name.rpartition("-")[2])
    slower = DRIFT**process * (SLOWER.get(name, 1.0) if process < UNTIL else 1.0)
    seconds = [0.001 * slower * rng.lognormvariate(0, 0.01) for _ in range(5)]
    values = {"seconds": seconds} if suite == "speed" else {"peak_bytes": 4096 + BYTES.get(name, 0), "parameters": 10}
    if "." in name:  # of a user: it costs as many bytes as its file has
        values["peak_bytes"] = len(open(name if name.endswith(".py") else importlib.util.find_spec(name).origin).read())
    cell = {"suite": suite, "spec": "attention", "implementation": name, "case": "plain", "dtype": "float32"}
    cell["settings"] = settings
    record = {"key": "", "cell": cell, "outcome": OUTCOME.get(name, "ok"), "values": values, "note": "", "digests": {}}
    record |= {"machine": "here", "versions": {}, "time_s": 0.1, "at": "2026-01-01", "run": "r"}
    file = results / "records" / "here" / f"{suite}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as lines:
        lines.write(json.dumps(record) + "\\n")
'''
COSTS = 'CELLS = ("one", "two", "three")\nSLOWER = {}\nDRIFT = 1.0\nUNTIL = 99\nBYTES = {}\nOUTCOME = {}\nSLEEP_S = 0.0\n'


@pytest.fixture
def repository(tmp_path: Path, committed: Callable[..., Path]) -> Path:
    """One commit, `main`, of three implementations that cost the same for ever."""
    files = {
        "harness/__init__.py": "",
        "harness/__main__.py": STAND_IN,
        "harness/costs.py": COSTS,
        "suites/speed.py": 'settings = {"form": "*", "length": ""}\n',
        "suites/memory.py": 'settings = {"form": "*", "length": ""}\n',
        ".gitignore": "__pycache__\n",
    }
    return committed(tmp_path / "checkout", files)


def edit(place: Path, text: str) -> None:
    """Change what the implementations of the working tree cost."""
    (place / "harness" / "costs.py").write_text(COSTS + text)


def compare(place: Path, *words: str, path: Sequence[str] = (str(ROOT),)) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path), "PYTHONSAFEPATH": "1"}
    command = [sys.executable, "-m", "harness", "compare", *words]
    return subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False, timeout=600)


def complaints(said: subprocess.CompletedProcess[str]) -> str:
    """What stands on stderr, without the lines of progress that a slow machine gives time for."""
    return "\n".join(line for line in said.stderr.strip().splitlines() if not re.match(r" *\d+%  \d+/\d+ runs", line)).strip()


def test_a_commit_against_itself_raises_nothing(repository: Path):
    said = compare(repository, "main", "main", "suite=memory,speed", "pairs=6")
    assert said.returncode == 0, said.stdout + said.stderr
    assert said.stdout.startswith(
        "main against main; of 6 counts 6 equal; of 3 timed cells 3 not slower\nThe same code against itself"
    )
    assert "is told slower in 0.0% of comparisons. A slowdown is found from " in said.stdout
    assert "attention/one" in said.stdout
    assert complaints(said) == ""


def test_a_planted_slowdown_is_found_and_named(repository: Path):
    edit(repository, 'SLOWER = {"two": 1.3}\n')
    said = compare(repository, "main", ".", "suite=speed", "pairs=6")
    assert said.returncode == 1
    assert ". against main; of 3 timed cells 1 slower, 2 not slower" in said.stdout
    first, facts, gate, again = complaints(said).splitlines()
    assert first == "attention/two is slower in case plain, float32, form forward, length 256"
    percent = r"\+\d\d\.\d%"
    ratio = f"{percent}, at least {percent}, at most {percent}, in 6 pairs of processes"
    assert re.fullmatch(rf"  0\.001\d+ s was 0\.0\d+ s: {ratio}", facts)
    assert re.fullmatch(
        r"  slowdowns are found here from \d\.\d%; the same code against itself is told slower in 0\.0% of comparisons", gate
    )
    assert again == (
        "  again: harness compare main . suite=speed spec=attention impl=two case=plain dtype=float32 device=cpu form=forward"
        " length=256 pairs=6"
    )


def test_what_is_slower_in_the_processes_of_the_first_asking_alone_is_no_alarm(repository: Path):
    edit(repository, 'SLOWER = {"two": 1.3}\nUNTIL = 13\n')
    said = compare(repository, "main", ".", "suite=speed", "pairs=6")
    assert said.returncode == 0
    assert "of 3 timed cells 3 not slower" in said.stdout
    assert re.search(r"attention/two .*not slower *\+\d\d\.\d% at first, not so when asked again", said.stdout)
    assert complaints(said) == ""


def test_processes_that_get_slower_one_by_one_raise_nothing(repository: Path, git: Callable[..., str]):
    """In the order BASE HEAD BASE HEAD each would be slower than the one before it: by more than the threshold."""
    edit(repository, "DRIFT = 1.12\n")
    git(repository, "commit", "--quiet", "--all", "--message=second")
    said = compare(repository, "main", "main", "suite=speed", "pairs=6")
    assert said.returncode == 0
    assert "of 3 timed cells 3 cannot tell" in said.stdout, "nor is anything told: BASE differs from itself as much"


def test_a_planted_allocation_is_found_and_named_and_a_smaller_one_is_better(repository: Path, git: Callable[..., str]):
    edit(repository, 'BYTES = {"two": 1024, "three": -96}\n')
    said = compare(repository, "main", ".", "suite=memory")
    assert said.returncode == 1
    assert said.stdout.startswith(". against main; of 6 counts 1 costlier, 1 better, 4 equal\n")
    assert "+25.0%" in said.stdout
    assert "-2.3%" in said.stdout
    assert complaints(said) == (
        "attention/two costs more in case plain, float32, form forward, length 256\n"
        "  peak_bytes is 5,120, but was 4,096 (+25.0%)\n"
        "  again: harness compare main . suite=memory spec=attention impl=two case=plain dtype=float32 device=cpu form=forward"
        " length=256"
    )
    git(repository, "commit", "--quiet", "--all", "--message=second")
    assert compare(repository, "main", "main~1", "suite=memory", "impl=two").returncode == 0, "less is no failure"


def test_an_allocation_planted_in_an_implementation_of_ours_is_found_and_named(tmp_path: Path, committed: Callable[..., Path]):
    """Nothing stands in here: two revisions of this harness, its suite of memory, and a thousand bytes more in one file."""
    for folder in ("harness", "implementations", "suites"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    committed(tmp_path)
    planted = tmp_path / "implementations" / "rms_norm" / "torch_plain.py"
    text = planted.read_text()
    assert text.count("    def run(x") == 1
    body = text.index("\n", text.index("    def run(x")) + 1
    planted.write_text(text[:body] + "        hoard = torch.empty(250, device=x.device)  # noqa: F841\n" + text[body:])
    words = ["suite=memory", "spec=rms_norm", "impl=torch_*", "scale=smoke", "form=forward", "length=64"]
    said = compare(tmp_path, "main", ".", *words)
    assert said.returncode == 1, said.stdout + said.stderr
    named = [line for line in complaints(said).splitlines() if line.startswith("rms_norm/")]
    assert named, said.stdout + said.stderr
    assert all(line.startswith("rms_norm/torch_plain costs more in case ") for line in named)
    assert "1 costlier" in said.stdout


@pytest.mark.parametrize(
    ("impl", "folder", "path"),
    [
        ("mine.py", ".", ""),
        ("../mine.py", "src", ""),
        ("{checkout}/mine.py", ".", ""),
        ("{checkout}/mine.py", "src", ""),
        ("mypkg.mine", ".", "{checkout}/src"),
        ("mypkg.mine", ".", "src"),
    ],
)
def test_a_file_or_module_of_the_checkout_is_that_of_each_side(
    impl: str, folder: str, path: str, repository: Path, git: Callable[..., str]
):
    files = [repository / "mine.py", repository / "src" / "mypkg" / "mine.py"]
    files[1].parent.mkdir(parents=True)
    for file in files:
        file.write_text("1234")
    git(repository, "add", "--all")
    git(repository, "commit", "--quiet", "--message=second")
    for file in files:
        file.write_text("123456")
    impl, path = (word.format(checkout=repository) for word in (impl, path))
    said = compare(repository / folder, "main", ".", "suite=memory", f"impl={impl}", path=[*filter(None, [path]), str(ROOT)])
    assert (said.returncode, "peak_bytes is 6, but was 4 (+50.0%)" in said.stderr) == (1, True), said.stdout + said.stderr


def test_what_is_the_same_for_both_revisions_is_refused(repository: Path, tmp_path: Path, git: Callable[..., str]):
    """As in an installation that leads to the checkout of the user, whatever revision is asked."""
    for place in (tmp_path / "mypkg", repository / "src" / "mypkg"):
        place.mkdir(parents=True)
        (place / "mine.py").write_text("")
    git(repository, "add", "--all")
    said = compare(repository, "main", ".", "suite=memory", f"impl={tmp_path}/mypkg/mine.py")
    assert said.returncode == 2
    assert f"impl={tmp_path}/mypkg/mine.py lies outside of {repository}, so it is the same for both revisions." in said.stderr
    said = compare(repository, "main", ".", "suite=memory", "impl=mypkg.mine", path=[str(ROOT), str(tmp_path)])
    assert said.returncode == 2
    assert f"it from {tmp_path}/mypkg/mine.py, so it is the same for both revisions.\n" in said.stderr
    said = compare(repository, "main", ".", "suite=memory", "impl=mypkg.mine", path=["src", str(ROOT)])
    assert said.returncode == 2, "BASE has no folder src, so it would take the module of the working tree"
    assert "impl=mypkg.mine is not that of BASE (main, " in said.stderr


def test_a_repository_of_ones_own_of_which_nothing_is_named_is_refused(tmp_path: Path, committed: Callable[..., Path]):
    """The installed harness would be compared with itself, and told equal."""
    committed(tmp_path, {"mine.py": 'spec = "rotary"\n'})
    for words in ([], ["impl=pairs"]):
        said = compare(tmp_path, "main", ".", "suite=memory", "spec=rotary", *words)
        assert said.returncode == 2
        assert "harness: nothing of BASE (main, " in said.stderr
        assert "Name a file of the checkout: impl=./FILE.py" in said.stderr


def test_what_a_person_allows_to_cost_more_is_told_and_does_not_fail(repository: Path):
    edit(repository, 'BYTES = {"two": 1024}\n')
    said = compare(repository, "main", ".", "suite=memory", "allow=attention/t*, attention/one")
    assert (said.returncode, complaints(said)) == (0, "")
    assert "costlier, allowed" in said.stdout
    assert "allow=attention/one allows nothing: no such cell got worse" in said.stdout
    assert "allow=attention/t*" not in said.stdout
    edit(repository, 'OUTCOME = {"two": "wrong"}\n')
    assert compare(repository, "main", ".", "suite=memory", "allow=*").returncode == 1, "what fails is never allowed"


def test_what_is_on_one_side_only_is_named(repository: Path):
    edit(repository, 'CELLS = ("one", "two", "four")\n')
    said = compare(repository, "main", ".", "suite=memory")
    assert said.returncode == 0
    (gone,) = (line for line in said.stdout.splitlines() if "attention/three" in line)
    (new,) = (line for line in said.stdout.splitlines() if "attention/four" in line)
    assert gone.endswith("only in BASE")
    assert new.endswith("only in HEAD")


def test_what_fails_now_and_did_not_is_a_failure(repository: Path):
    edit(repository, 'OUTCOME = {"one": "wrong"}\n')
    said = compare(repository, "main", ".", "suite=memory,speed", "pairs=6")
    assert said.returncode == 1
    assert "attention/one fails in case plain, float32, form forward, length 256\n  wrong in HEAD, ok in BASE\n" in said.stderr
    assert ". against main; 2 cells fail that did not; " in said.stdout


def test_nothing_to_compare_is_a_failure(repository: Path):
    edit(repository, 'CELLS = ("four",)\n')
    said = compare(repository, "main", ".", "suite=memory", "impl=four")
    assert said.returncode == 1
    assert "suite=memory has no answer from BASE: no implementation named 'four'." in said.stdout
    assert complaints(said) == (
        "nothing was compared: . and main have no cell in common that is ok on both sides\n"
        "  See what there is to ask: harness plan suite=memory; then: harness compare main . spec=NAME"
    )


def test_a_suite_that_neither_side_has_is_said_and_compares_nothing(repository: Path, git: Callable[..., str]):
    git(repository, "rm", "--quiet", "suites/memory.py")
    git(repository, "commit", "--quiet", "--message=second")
    said = compare(repository, "main", "main", "suite=memory")
    assert said.returncode == 1
    assert "suite=memory is not asked: neither BASE (main, " in said.stdout


def test_a_process_that_dies_is_told_with_its_last_words(repository: Path):
    (repository / "harness" / "__main__.py").write_text("raise SystemExit('the disk is full')\n")
    said = compare(repository, "main", ".", "suite=memory")
    assert said.returncode == 1
    assert "suite=memory has no answer from HEAD: the disk is full" in said.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["mian", "."], "git knows no revision 'mian' in "),
        (["--", "--output=x", "."], "`compare` takes two first"),
        (["main"], "`compare` takes two first: git revisions, or stored selections."),
        (["main", "impl=two"], "`compare` takes two first: git revisions, or stored selections."),
        (["main", ".", "pairs=7"], "pairs=7 should be an even number from 6 to 60: BASE HEAD, HEAD BASE, ...\n  Try: pairs=12"),
        (["main", ".", "threshold=10"], "threshold=10 should be above 0 and up to 1: a slowdown of 10 % is threshold=0.1"),
        (["main", ".", "suite=sped"], "suite=sped does not compare revisions. Did you mean 'speed'?"),
        (["main", ".", "from=forward"], "no setting named 'from'. Did you mean 'form'?"),
        (["main", ".", "results=here"], "`compare` asks both sides anew and keeps nothing, so it takes no 'results'"),
        (["main", ".", "suite=memory", "impl=nine"], "no implementation named 'nine'."),
        (
            ["main", ".", "format=parquet"],
            "format=parquet is no text for a screen: say where to, format=parquet out=table.parquet",
        ),
    ],
    ids=lambda value: "_".join(value) if isinstance(value, list) else "",
)
def test_wrong_requests_have_a_message_and_status_2(words: list[str], message: str, repository: Path):
    said = compare(repository, *words)
    assert message in said.stderr
    assert said.returncode == 2
    assert "Traceback" not in said.stderr


def test_without_a_checkout_there_are_no_revisions(tmp_path: Path):
    said = compare(tmp_path, "main", ".")
    assert said.returncode == 2
    assert "is in no git checkout, so it has no revisions to compare.\n  Go into the checkout" in said.stderr


def test_who_is_asked_to_end_takes_its_processes_and_folders_along(repository: Path, tmp_path: Path, git: Callable[..., str]):
    edit(repository, "SLEEP_S = 60.0\n")
    git(repository, "commit", "--quiet", "--all", "--message=second")
    (folder := tmp_path / "temporary").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1", "TMPDIR": str(folder)}
    command = [sys.executable, "-m", "harness", "compare", "main", "main", "suite=memory"]
    asked = subprocess.Popen(command, cwd=repository, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        while not (running := at_work(folder)) and asked.poll() is None:
            time.sleep(0.05)
        assert running, asked.communicate()[0].decode()
        asked.terminate()
        assert asked.wait(60) == 130
    finally:
        asked.kill()
    for _ in range(100):
        time.sleep(0.05 * bool(at_work(folder)))
    assert not at_work(folder), "a process goes on"
    assert not list(folder.iterdir()), "a folder stays behind"


def at_work(folder: Path) -> list[str]:
    """Command lines of processes that were told of the folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            found.append(process.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return [line for line in found if str(folder) in line]


def test_a_table_for_programs_is_nothing_but_the_table(repository: Path):
    said = compare(repository, "main", "main", "suite=memory,speed", "pairs=6", "format=csv", "out=times.csv")
    assert said.stdout == ""
    assert "written: times.csv" in said.stderr
    head, *rows = (repository / "times.csv").read_text().strip().splitlines()
    assert head == "implementation,case,form,length,BASE s,HEAD s,ratio,at least,at most,finds from,false alarms,verdict,why"
    assert len(rows) == 3
    assert compare(repository, "main", "main", "suite=speed", "pairs=6", "format=csv").stdout.startswith("implementation,case,")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["same_code.py", "times"],
            "same_code: 'times' is no setting; settings are written key=value.\n  known: times, out, suite, spec, impl, variant, "
            "case, dtype, device, seed, workers, timeout, memory, results, rerun\n",
        ),
        (["same_code.py", "times=0"], "same_code: times=0 compares nothing.\n  Try: times=20\n"),
        (["same_code.py", "times=few"], "same_code: times=few should be a whole number, 0 or more\n"),
    ],
)
def test_a_script_that_is_asked_nothing_says_so(words: Sequence[str], told: str):
    script, *rest = words
    said = subprocess.run([sys.executable, str(ROOT / "ci" / script), *rest], capture_output=True, text=True, check=False)
    assert (said.returncode, said.stderr) == (2, told)
