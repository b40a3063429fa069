"""Pages of single items: of a spec what it builds on and leaves open, of a suite its settings."""

import pytest

from harness import show


@pytest.mark.parametrize("name", ["attention", "attention/plain", "correctness", "transformer_rope"])
def test_show_tells_of_every_kind(name: str):
    assert show.page(name).startswith(f"{name}  (")


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("transformer_streaming", ["GELU is exact (erf)", "LayerNorm has eps 1e-5", "otherwise\n  t=16, sinks=4\n"]),
        ("retnet", ["GELU is exact (erf)"]),
        ("rms_norm", ["otherwise\n  eps=1e-06\n"]),
        ("speed", ["\n  rounds=2\n", "\n  workers=0  processes at a time; 0: one for each core\n"]),
        (
            "attention",
            ["\n  visibility=full (or causal, prefix, sliding_window, lambda), window=0, prefix=0, sinks=0, block=16\n"],
        ),
    ],
)
def test_show_tells_of_the_skeleton_of_defaults_and_of_settings(name: str, parts: list[str]):
    said = show.page(name)
    for part in parts:
        assert part in said


def test_show_tells_of_no_skeleton_where_there_is_none():
    """Its blocks are its own: it takes the norms of `_decoder` alone."""
    assert "GELU is exact" not in show.page("rwkv4")
