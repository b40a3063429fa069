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
    """checkpoint(kind) -> a folder with a tiny GPT-2 or Llama of random weights and a tokenizer whose tokens are bytes."""
    pytest.importorskip("transformers", reason="transformers is not installed: pip install -e '.[lm-eval]'")
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    def saved(kind: str) -> Path:
        folder = tmp_path_factory.mktemp(kind)
        vocabulary = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
        tokenizer = Tokenizer(models.BPE(vocabulary | {"<end>": 256}, []))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>").save_pretrained(folder)
        torch.manual_seed(0)
        if kind == "gpt2":
            sizes = {"n_positions": 512, "n_embd": 16, "n_layer": 2, "n_head": 2}
            model = GPT2LMHeadModel(GPT2Config(vocab_size=257, **sizes))
        else:
            sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "max_position_embeddings": 64}
            heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
            model = LlamaForCausalLM(LlamaConfig(vocab_size=257, initializer_range=0.2, **sizes, **heads))
        model.save_pretrained(folder)
        return folder

    return cache(saved)
