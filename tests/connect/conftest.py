"""What the tests of connections share: a way to ask lm_eval, and two tiny language models of transformers in a folder."""

import os
from functools import cache
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers and datasets are imported

TASKS = Path(__file__).parents[2] / "harness" / "connect" / "tasks"


@pytest.fixture(scope="session")
def evaluate():
    """evaluate(model, tasks, shots=0, **options) -> what lm_eval says of each task, without its standard errors."""
    lm_eval = pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install -e '.[lm-eval]'")
    from lm_eval.tasks import TaskManager

    def asked(model, tasks, shots=0, **options):
        manager = TaskManager(include_path=str(TASKS), include_defaults=False)
        told = lm_eval.simple_evaluate(model, tasks=tasks, num_fewshot=shots, task_manager=manager, bootstrap_iters=0, **options)
        return {
            task: {name.removesuffix(",none"): x for name, x in found.items() if name.endswith("none") and "stderr" not in name}
            for task, found in told["results"].items()
        }

    return asked


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """checkpoint(kind) -> a folder with a tiny model of random weights and a tokenizer whose tokens are bytes.

    Kinds: llama, llama-tied (one matrix for what comes in and goes out), llama-dynamic (its rotary frequencies follow the
    length), mistral (a window of its own), gpt_neox-whole (every feature is turned), cohere (pairs are neighbours), falcon-alibi
    (rotary positions are told, and not used), rwkv, mpt-told, bloom-told, mamba-told (with a training length), gpt2,
    gpt_neox, bloom, opt, mamba.
    """
    pytest.importorskip("transformers", reason="transformers is not installed: pip install -e '.[lm-eval]'")
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    width = {"hidden_size": 16, "num_hidden_layers": 2, "initializer_range": 0.2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    llama = {**width, **heads, "intermediate_size": 24, "max_position_embeddings": 64}
    neox = {**width, "num_attention_heads": 2, "intermediate_size": 24, "max_position_embeddings": 64}
    whole = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0}
    bloom = {"hidden_size": 16, "n_layer": 2, "n_head": 2, "initializer_range": 0.2}
    mpt = {"d_model": 16, "n_heads": 2, "n_layers": 2, "max_seq_len": 64, "initializer_range": 0.2}
    dynamic = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    kinds = {
        "llama": llama,
        "llama-tied": {**llama, "tie_word_embeddings": True},
        "llama-dynamic": {**llama, "rope_parameters": dynamic},
        "mistral": {**llama, "sliding_window": 8},
        "gpt2": {"n_positions": 512, "n_embd": 16, "n_layer": 2, "n_head": 2},
        "gpt_neox": neox,
        "gpt_neox-whole": {**neox, "rope_parameters": whole},
        "cohere": llama,
        "falcon-alibi": {**width, "num_attention_heads": 2, "alibi": True},
        "rwkv": {**width, "context_length": 32},
        "mpt-told": {**mpt, "max_position_embeddings": 64},
        "bloom": bloom,
        "bloom-told": {**bloom, "max_position_embeddings": 32},
        "opt": {**width, "num_attention_heads": 2, "ffn_dim": 24, "max_position_embeddings": 64, "word_embed_proj_dim": 16},
        "mamba": {**width, "state_size": 4},
        "mamba-told": {**width, "state_size": 4, "max_position_embeddings": 32},
    }

    def saved(kind: str) -> Path:
        folder = tmp_path_factory.mktemp(kind)
        vocabulary = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
        tokenizer = Tokenizer(models.BPE(vocabulary | {"<end>": 256}, []))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>").save_pretrained(folder)
        torch.manual_seed(0)
        config = AutoConfig.for_model(kind.partition("-")[0], vocab_size=257, **kinds[kind])
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        return folder

    return cache(saved)
