"""What the doctor says: each part is told of, and each lack with what would mend it."""

import tomllib
from pathlib import Path

from harness import doctor


def test_doctor_says_what_is_there_and_what_would_bring_the_rest():
    said = doctor.report()
    for word in ("machine", "torch", "devices", "triton", "gcc", "parquet"):
        assert f"\n{word}" in "\n" + said
    assert "pip install 'sequence-harness[parquet]'" in said or "parquet    installed" in said


def test_the_doctor_offers_the_extras_that_there_are():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert {extra for extra, _, _ in doctor.EXTRAS} == set(project["optional-dependencies"]) - {"test"}
