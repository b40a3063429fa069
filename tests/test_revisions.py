"""Checkouts of two revisions: the tree of the user is only read, nothing stays behind, and each side is run as it is."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import revisions
from harness.plan import WrongRequest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def repository(tmp_path: Path, committed: Callable[..., Path]) -> Path:
    """A checkout with something of the name of harness, and one commit, `main`."""
    files = {"harness/__init__.py": "", "harness/costs.py": "a = 1\n", ".gitignore": "__pycache__\n"}
    return committed(tmp_path / "checkout", files)


def test_a_repository_without_commits_says_so(tmp_path: Path):
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    with pytest.raises(WrongRequest, match=r"there are no commits yet in .*, so there is no 'HEAD' to compare with"):
        revisions.commit(tmp_path, "HEAD")
    assert revisions.commit(tmp_path, revisions.WORKING_TREE) == ""


def test_the_users_tree_is_only_read_and_nothing_stays_behind(
    repository: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, git: Callable[..., str]
):
    (repository / "new.py").write_text("new = 1\n")
    (repository / "__pycache__").mkdir()
    (repository / "__pycache__" / "ignored").write_text("")
    (repository / "harness" / "costs.py").unlink()
    before = {path: path.stat().st_mtime_ns for path in repository.rglob("*") if path.name != "index"}
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(revisions.tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.chdir(repository / "harness")
    with revisions.checkouts("main", ".") as (base, head):
        assert (base.place / "harness" / "costs.py").read_text() == "a = 1\n"
        assert not (base.place / "new.py").exists()
        assert (head.place / "new.py").read_text() == "new = 1\n"
        assert not (head.place / "harness" / "costs.py").exists()
        assert not (head.place / "__pycache__").exists()
        assert (base.commit, head.commit) == (git(repository, "rev-parse", "main").strip(), "")
    assert {path: path.stat().st_mtime_ns for path in repository.rglob("*") if path.name != "index"} == before
    assert not list((tmp_path / "temporary").iterdir())
    assert git(repository, "worktree", "list").count("\n") == 1


def test_a_file_is_named_from_the_current_folder_or_as_the_message_names_it(repository: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(repository / "harness")
    with revisions.checkouts("main", ".") as sides:
        for name in ("costs.py", "harness/costs.py", str(repository / "harness" / "costs.py")):
            assert revisions.handed({"impl": name}, sides) == {"impl": "harness/costs.py"}


def test_an_installed_harness_that_wins_over_that_of_the_checkout_is_refused(repository: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(repository)
    good = revisions._environment
    monkeypatch.setattr(revisions, "_environment", lambda side: good(side) | {"PYTHONPATH": str(ROOT)})
    message = r"the harness of BASE \(main, .*\) cannot be run: this Python imports .*__init__.py instead"
    with pytest.raises(WrongRequest, match=message), revisions.checkouts("main", "."):
        pass


def test_only_a_side_that_knows_the_word_is_asked_for_records_without_tables(tmp_path: Path):
    """An older revision would refuse the word, and nothing would be compared."""
    newer, older = (tmp_path / name / "harness" for name in ("newer", "older"))
    for place, text in ((newer, 'RUN = {"tables": True}\n'), (older, "")):
        place.mkdir(parents=True)
        (place / "__init__.py").touch()
        (place / "cli.py").write_text(text)
    sides = [
        revisions.Side("BASE", "main", "", place.parent, tmp_path) for place in (newer, older, tmp_path / "none" / "harness")
    ]
    assert [side.without_tables for side in sides] == [["tables=false"], [], ["tables=false"]]


def test_a_side_that_cannot_be_imported_is_told_with_the_file_and_line_of_the_checkout(tmp_path: Path):
    """A message such as `SyntaxError: invalid syntax` alone leads nowhere, and the copy is gone when it is read."""
    side = revisions.Side("HEAD", ".", "", tmp_path / "head", tmp_path)
    said = tmp_path / "errors"
    said.write_text(
        'Traceback (most recent call last):\n  File "/lib/runpy.py", line 1, in run\n'
        f'  File "{side.place}/harness/cost.py", line 7\n    def broken(:\n               ^\nSyntaxError: invalid syntax\n'
    )
    assert revisions._last_words(said, side) == 'SyntaxError: invalid syntax\n  File "harness/cost.py", line 7'


def test_a_shallow_clone_is_told_where_the_history_is(repository: Path, git: Callable[..., str], tmp_path: Path):
    git(repository, "commit", "--quiet", "--allow-empty", "--message=second")
    git(repository, "clone", "--quiet", "--depth=1", f"file://{repository}", str(tmp_path / "shallow"))
    with pytest.raises(WrongRequest, match="git fetch --unshallow"):
        revisions.commit(tmp_path / "shallow", "HEAD~1")
