"""A checkpoint folder runs in both suites: nothing is trained, and what is measured is what the model says."""

import json
import math
import shutil

import pytest
import torch

transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install -e '.[lm-eval]'")

from harness import catalogue, plan, text  # noqa: E402
from harness.cell import Record  # noqa: E402
from harness.connect import checkpoint as checkpoints  # noqa: E402
from harness.implementation import Implementation  # noqa: E402
from harness.worker import answer_to  # noqa: E402


def answers(**words):
    chosen, suite = plan.selection(words)
    for cell in plan.cells(chosen, suite):
        try:
            yield cell, suite.measure(cell, Implementation.of(cell), lambda share, doing: None)
        except Exception as error:
            yield cell, answer_to(error)


def test_bits_per_byte_are_those_of_the_model_alone(checkpoint):
    folder = checkpoint("llama")
    words = {"suite": "long-context", "scale": "smoke", "impl": "transformers", "variant": "as_it_is", "model": str(folder)}
    ((cell, answer),) = answers(**words)
    assert (answer.outcome, cell.case) == ("ok", "checkpoint")
    bits = answer.values["bits_per_byte"]
    assert list(bits) == ["t/4", "t/2", "t", "2t", "4t"]
    model = checkpoints.load(folder)
    held_out = [list(document) for document in text.load(None, 512).held_out]  # its tokens are bytes, in another order
    texts = [checkpoints.text(bytes(document), model.tokenizer).ids for document in held_out]
    rooms = [len(ids) - 256 for ids in texts]
    room = int(0.5 * sum(rooms) / 8)  # the first of 8 windows, in the first document
    assert room < rooms[0]
    ids = texts[0][256 + room - 64 : 256 + room + 1]
    p = model(torch.tensor([ids[:-1]]))[0].detach().double().log_softmax(-1)
    right = -sum(float(p[i - 1, ids[i]]) for i in range(57, 65)) / math.log(2) / 8
    assert bits["t"][0] == pytest.approx(right, rel=1e-4)


def test_a_matrix_of_zeros_in_a_checkpoint_stays_one(checkpoint, tmp_path):
    """Those of models that are made here get other first values: zeros would hide what comes before them."""
    model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint("llama"))
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.zero_()
    shutil.copytree(checkpoint("llama"), tmp_path / "folder")
    model.save_pretrained(tmp_path / "folder")
    words = {"suite": "long-context", "impl": "transformers", "variant": "as_it_is", "model": str(tmp_path / "folder")}
    chosen, suite = plan.selection(words)
    (cell,) = plan.cells(chosen, suite)
    contestant = Implementation.of(cell)
    case = contestant.spec.case("plain", torch.float32).resized({"model": words["model"]})
    asked = contestant.model({}, case).checkpoint.model
    assert not asked.model.layers[0].mlp.down_proj.weight.any()
    assert asked.model.layers[1].mlp.down_proj.weight.any()


def test_probes_ask_it_with_words_for_symbols(checkpoint):
    words = {"suite": "in-context-learning", "scale": "smoke", "impl": "transformers", "model": str(checkpoint("llama"))}
    found = dict(answers(**words, variant="as_it_is"))
    said = {cell.case: answer.outcome for cell, answer in found.items()}
    assert said == dict.fromkeys(("mqar", "induction", "automata", "regression"), "ok") | {"remapping": "unsupported"}
    mqar = next(answer for cell, answer in found.items() if cell.case == "mqar").values
    assert sum(mqar["score"]["exact solver"]) == len(mqar["score"]["exact solver"])
    assert sum(mqar["score"]["trained"]) < 0.6 * len(mqar["score"]["trained"])


def test_positions_of_a_table_end_and_are_said_to(checkpoint):
    words = {"suite": "long-context", "scale": "smoke", "impl": "transformers", "model": str(checkpoint("gpt2"))}
    found = {cell.variant: answer for cell, answer in answers(**words)}
    assert found["as_it_is"].values["bits_per_byte"]["2t"] == "its positions end at 512"
    assert found["four_sinks"].outcome == "unsupported"
    assert found["four_sinks"].note == "gpt2 has no plain rotary positions that could be told otherwise: none"


def test_a_training_length_beyond_all_text_is_said_to_be(checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint("llama"), tmp_path / "folder")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 10**6}))
    words = {"suite": "long-context", "scale": "smoke", "impl": "transformers", "variant": "as_it_is", "model": str(folder)}
    longest = max(map(len, text.load(None, 512).held_out)) - 1  # its tokens are bytes; the last is foretold, not read
    said = f"no held-out document has t/4 = 250,000 tokens; the longest has {longest:,}: say text=PATH for longer ones"
    ((_, answer),) = answers(**words)
    assert (answer.outcome, answer.note) == ("unsupported", said)
    ((_, answer),) = answers(**words, task="streaming")
    assert answer.outcome == "unsupported"
    assert answer.note.startswith("a stream takes 64,000,000 tokens of held-out text, and there are ")


def test_it_reads_a_stream_step_by_step(checkpoint):
    words = {"suite": "long-context", "scale": "smoke", "impl": "transformers", "task": "streaming"}
    found = {cell.variant: (cell, answer) for cell, answer in answers(**words, model=str(checkpoint("llama")))}
    assert {cell.case for cell, _ in found.values()} == {"checkpoint_streaming"}
    assert {answer.outcome for _, answer in found.values()} == {"ok"}
    plain, rolling = (found[variant][1].values for variant in ("as_it_is", "four_sinks"))
    token = 2 * 2 * 2 * 4 * 4  # bytes: keys and values, in two layers, of two heads with four features each
    assert plain["stopped"] == f"its state grows by {token} bytes a token of text, {2048 * token:,} bytes at 2,048"
    assert (rolling["stopped"], rolling["grows_by"]) == ("", 0)
    assert rolling["state_bytes"] == [63 * token] * 32  # t tokens, of which the newest brings its own
    # Its tokens are bytes of this text, so bits a token are bits a byte; up to t both are the same model.
    assert rolling["bytes_a_token"] == plain["bytes_a_token"] == 1
    model = checkpoints.load(checkpoint("llama"), "streaming:4")
    held_out = b"".join(text.load(None, 512).held_out)
    ids = torch.tensor([checkpoints.text(held_out, model.tokenizer).ids[:129]])
    p = model(ids[:, :-1])[0].detach().double().log_softmax(-1)
    right = -p[torch.arange(128), ids[0, 1:]].mean() / math.log(2)
    assert rolling["bits"][0][0] == pytest.approx(float(right), abs=1e-3)
    told = {"digests": {}, "machine": "", "versions": {}, "time_s": 1.0, "at": "", "run": ""}
    records = [Record(cell, answer.outcome, answer.values, answer.note, **told) for cell, answer in found.values()]
    quality, costs = catalogue.load(catalogue.find("suite", "long-context").path).table(records).values()
    assert costs["bytes a byte"].tolist() == [token, token, 0, 0]
    for column in (costs["bytes at 64t"], costs["from 48t, µs"], quality["64t"], quality["change"]):
        assert column.notna().tolist() == [False, False, True, True]


def test_steps_that_say_otherwise_than_the_whole_are_not_measured(checkpoint, monkeypatch):
    def forgetful(self, ids, state=None):
        return self.model(input_ids=ids[:, None], use_cache=False).logits[:, -1], state

    monkeypatch.setattr(checkpoints.Checkpoint, "step", forgetful)
    words = {"suite": "long-context", "scale": "smoke", "impl": "transformers", "task": "streaming", "variant": "as_it_is"}
    ((_, answer),) = answers(**words, model=str(checkpoint("llama")))
    assert (answer.outcome, answer.values.get("bits")) == ("wrong", None)
    assert answer.note.startswith("not read: step by step it does not say what its whole says\n")


def test_a_stream_needs_positions_and_a_cache(checkpoint):
    words = {"suite": "long-context", "scale": "smoke", "impl": "transformers", "task": "streaming", "variant": "as_it_is"}
    for kind, said in (("gpt2", "its positions end at 512"), ("bloom", "bloom tells no training length")):
        ((_, answer),) = answers(**words, model=str(checkpoint(kind)))
        assert answer.outcome == "unsupported"
        assert answer.note.startswith(said)


def test_a_task_that_asks_no_checkpoint_is_said_to(checkpoint):
    with pytest.raises(plan.WrongRequest, match=r"no task named 'depth'.*\n  known: extrapolation, streaming"):
        list(answers(suite="long-context", impl="transformers", task="depth", model=str(checkpoint("llama"))))


def test_with_a_folder_checkpoints_alone_are_asked_and_without_one_all_others(checkpoint):
    for suite in ("long-context", "in-context-learning"):
        for folder in ("", str(checkpoint("llama"))):
            chosen, module = plan.selection({"suite": suite, "spec": "language_model", "model": folder})
            names = {cell.implementation for cell in plan.cells(chosen, module)}
            assert names == ({"transformers"} if folder else {"running_mean"})
