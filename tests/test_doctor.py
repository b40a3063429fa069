"""What the doctor says: each part is told of, and each lack with what would mend it."""

from harness import doctor


def test_doctor_says_what_is_there_and_what_would_bring_the_rest():
    said = doctor.report()
    for word in ("machine", "torch", "devices", "triton", "gcc", "ray"):
        assert f"\n{word}" in "\n" + said
    assert "pip install 'sequence-harness[ray]'" in said or "ray        installed" in said
