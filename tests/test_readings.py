"""How claims are read: which differences show, and what models are called."""

from harness import readings


def test_two_models_never_share_a_name():
    names = {
        "transformer_streaming/torch_blocks:no_sinks": "streaming:no_sinks",
        "transformer_rope/torch_sdpa": "rope",
        "transformer_rope/triton_flash": "rope/triton_flash",
        "retnet/mine.py": "retnet/mine.py",
        "language_model/mine.py": "mine.py",
        "rope/torch_sdpa.py": "rope/torch_sdpa.py",
        "language_model/transformers:lm_infinite": "transformers:lm_infinite",
    }
    assert {subject: readings.short(subject) for subject in names} == names
