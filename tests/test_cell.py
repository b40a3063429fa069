"""What a cell and a record are known by: keys, names and identities."""

from dataclasses import replace
from typing import Any

import pytest

from harness.cell import Cell, Record

ONE = Cell("correctness", "rotary", "pairs", settings={"family": "normal", "form": "whole"})
ANSWER = Record(ONE, "ok", {"score": 0.5}, "", {"spec": "a"}, "here", {"torch": "2"}, 0.1, "2026-01-01T00:00:00+00:00", "r")


@pytest.mark.parametrize(
    "change",
    [
        *({name: "other"} for name in ("suite", "spec", "implementation", "variant", "case", "dtype", "device")),
        {"seed": 1},
        {"settings": {"family": "normal"}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_key_stands_for_all_of_a_cell(change: dict[str, Any]):
    assert replace(ONE, **change).key != ONE.key
    assert replace(ONE, settings=dict(reversed(ONE.settings.items()))).key == ONE.key


@pytest.mark.parametrize("change", [{"digests": {"spec": "b"}}, {"machine": "there"}, {"versions": {"torch": "3"}}])
def test_other_code_machine_or_versions_are_another_question(change: dict[str, Any]):
    assert ANSWER.identity == replace(ANSWER, time_s=9.0, run="other", outcome="wrong").identity
    assert ANSWER.identity != replace(ANSWER, **change).identity


@pytest.mark.parametrize(
    ("implementation", "variant", "subject"),
    [("pairs", "", "rotary/pairs"), ("pairs", "wide", "rotary/pairs:wide"), ("/some/where/pairs.py", "", "rotary/pairs.py")],
)
def test_a_file_has_a_name_like_none_of_the_registry(implementation: str, variant: str, subject: str):
    assert replace(ONE, implementation=implementation, variant=variant).subject == subject
