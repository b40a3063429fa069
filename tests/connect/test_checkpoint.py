"""Checkpoints of transformers: as they are bit by bit, and with other positions as a direct computation in float64 says."""

import copy
import json
import math
import shutil

import pytest
import torch

transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install -e '.[lm-eval]'")

from safetensors.torch import load_file, save_file  # noqa: E402

from harness import Unsupported, memory, watched  # noqa: E402
from harness.connect import checkpoint as checkpoints  # noqa: E402

N, T, SINKS = 41, 12, 3
QUERY, KEY = torch.arange(N)[:, None], torch.arange(N)
NEAR = (QUERY >= KEY) & (QUERY - KEY < T)


@pytest.fixture(scope="module")
def folder(checkpoint):
    return checkpoint("llama")


@pytest.fixture(scope="module")
def ids():
    return torch.randint(256, (2, N), generator=torch.Generator().manual_seed(1))


def llama(folder, ids, distance, seen):
    """The model in `folder`, in float64, a query `distance`[n n] away from a key that it has `seen`[n n]; no code of theirs."""
    config = json.loads((folder / "config.json").read_text())
    w = {name: x.double() for name, x in transformers.AutoModelForCausalLM.from_pretrained(folder).state_dict().items()}
    heads, groups, d = config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]

    def norm(x, name):
        return x / (x.square().mean(-1, keepdim=True) + config["rms_norm_eps"]).sqrt() * w[f"{name}.weight"]

    angle = distance.double()[..., None] * 10000.0 ** -(torch.arange(0, d, 2).double() / d)  # [n n d/2]
    x = w["model.embed_tokens.weight"][ids]
    for layer in range(config["num_hidden_layers"]):
        name = f"model.layers.{layer}"
        given = norm(x, f"{name}.input_layernorm")
        q, k, v = (given @ w[f"{name}.self_attn.{part}_proj.weight"].T for part in "qkv")
        q = q.unflatten(-1, (heads, d))
        k, v = (part.unflatten(-1, (groups, d)).repeat_interleave(heads // groups, 2) for part in (k, v))
        q, k = (torch.view_as_complex(torch.stack([part[..., : d // 2], part[..., d // 2 :]], -1)) for part in (q, k))
        # The score is the real part of q e^(i distance) times k conjugated, feature by feature.
        score = torch.einsum("bqhf,bkhf,qkf->bhqk", q, k.conj(), torch.polar(torch.ones_like(angle), angle)).real / d**0.5
        weights = score.masked_fill(~seen, -torch.inf).softmax(-1)
        x = x + torch.einsum("bhqk,bkhe->bqhe", weights, v).flatten(2) @ w[f"{name}.self_attn.o_proj.weight"].T
        given = norm(x, f"{name}.post_attention_layernorm")
        gate, up, down = (w[f"{name}.mlp.{part}_proj.weight"].T for part in ("gate", "up", "down"))
        x = x + (torch.nn.functional.silu(given @ gate) * (given @ up)) @ down
    return norm(x, "model.norm") @ w["lm_head.weight"].T


WAYS = {
    "": (QUERY - KEY, QUERY >= KEY),
    "interpolated:4": ((QUERY - KEY) / 4, QUERY >= KEY),
    f"lm_infinite:{SINKS}": ((QUERY - KEY).clamp(max=T), NEAR | ((SINKS > KEY) & (QUERY >= KEY))),
    "lm_infinite:0": (QUERY - KEY, NEAR),
    f"streaming:{SINKS}": (
        torch.where(KEY < SINKS, QUERY.clamp(max=T - 1) - KEY, QUERY - KEY),
        (QUERY >= KEY) & ((QUERY - KEY < T - SINKS) | (KEY < SINKS)),
    ),
    "streaming:0": (QUERY - KEY, NEAR),
}


@pytest.mark.parametrize("after", WAYS)
def test_it_computes_what_the_paper_says(folder, ids, after):
    found = checkpoints.load(folder, after, length=T)(ids).detach().double()
    right = llama(folder, ids, *WAYS[after])
    assert right.std() > 0.1  # the model says something
    assert (found - right).abs().max() < 2e-5 * right.abs().max()


@pytest.mark.parametrize(("one", "other"), [("", "interpolated:4"), ("", "streaming:3"), ("streaming:3", "lm_infinite:3")])
def test_that_the_ways_differ_would_be_seen(folder, ids, one, other):
    right, wrong = (llama(folder, ids, *WAYS[after]) for after in (one, other))
    assert (right - wrong).abs().max() > 1e-3 * right.abs().max()


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_as_it_is_it_is_transformers_bit_by_bit(checkpoint, ids, kind):
    plain = transformers.AutoModelForCausalLM.from_pretrained(checkpoint(kind), dtype=torch.float32).eval()
    model = checkpoints.load(checkpoint(kind))
    assert torch.equal(model(ids), plain(ids).logits)
    for name, weight in plain.state_dict().items():
        assert torch.equal(model.model.state_dict()[name], weight)


def stepped(model, ids, state=None):
    """logits[b n v], and the bytes carried for a row after each token."""
    said, carried, own = [], [], [*model.parameters(), *model.buffers()]
    for column in ids.unbind(1):
        logits, state = model.step(column, state)
        said.append(logits)
        carried.append(memory.kept_alive(state, besides=own) / len(ids))
    return torch.stack(said, 1), carried


STEPS = [*(("llama", after) for after in WAYS), ("llama", "lm_infinite:1"), ("llama", "streaming:11")]


@pytest.mark.parametrize(("kind", "after"), STEPS + [(kind, "") for kind in ("mistral", "gpt2", "gpt_neox", "bloom", "opt")])
@torch.no_grad()
def test_step_by_step_it_says_what_it_says_of_the_whole(checkpoint, ids, kind, after):
    model = checkpoints.load(checkpoint(kind), after, length=T)
    whole = model(ids)
    said, carried = stepped(model, ids)
    assert (said - whole).abs().max() < 2e-5 * whole.abs().max()
    if kind == "llama":  # floats: keys and values, in two layers, of two heads with four features each
        most = T - 1 + (model.rolling.sinks if model.rolling.kind == "lm_infinite" else 0) if model.rolling else N
        assert carried == [4 * 2 * 2 * 2 * 4 * min(at + 1, most) for at in range(N)]
    if kind == "mistral":
        assert carried[6] < carried[7] == carried[-1]  # a window of its own, of 8 tokens


@pytest.mark.parametrize(("kind", "after"), [("llama", ""), ("llama", "streaming:3"), ("mistral", "")])
@torch.no_grad()
def test_a_state_can_be_copied_and_is_left_as_it_was(checkpoint, ids, kind, after):
    model, state = checkpoints.load(checkpoint(kind), after, length=T), None
    for column in ids[:, :20].unbind(1):
        _, state = model.step(column, state)
    copied = copy.deepcopy(state)
    one, other = (stepped(model, further, state)[0] for further in (ids[:, 20:], ids[:, 20:].flip(1)))
    assert torch.equal(stepped(model, ids[:, 20:], copied)[0], one)
    assert torch.equal(stepped(model, ids[:, 20:], state)[0], one)
    assert not torch.equal(one, other)


def test_where_steps_would_say_otherwise_they_say_why(checkpoint):
    ids = torch.zeros(1, dtype=torch.long)
    with pytest.raises(Unsupported, match="has no step form: mamba takes no past_key_values, the cache of transformers"):
        checkpoints.load(checkpoint("mamba"), length=T).step(ids)
    with pytest.raises(Unsupported, match="mamba tells no training length"):
        checkpoints.load(checkpoint("mamba"))
    with pytest.raises(Unsupported, match="has no step form: dynamic rotary positions of llama turn kept keys anew"):
        checkpoints.load(checkpoint("llama-dynamic")).step(ids)
    model = checkpoints.load(checkpoint("opt"))
    with torch.no_grad():
        assert stepped(model, ids.expand(1, 64))[0].shape[1] == 64
    with pytest.raises(Unsupported, match="its positions end at 64"):
        stepped(model, ids.expand(1, 65))


@pytest.mark.parametrize("after", ["lm_infinite:3", "streaming:3"])
def test_up_to_the_training_length_nothing_changes(folder, ids, after):
    model, plain = checkpoints.load(folder, after), checkpoints.load(folder)
    assert model.length == 64
    with torch.no_grad():
        assert (model(ids) - plain(ids)).abs().max() < 1e-5


def test_what_cannot_be_is_said(checkpoint, folder, tmp_path):
    with pytest.raises(Unsupported, match="gpt2 has no plain rotary positions"):
        checkpoints.load(checkpoint("gpt2"), "streaming:4")
    with pytest.raises(Unsupported, match="its positions end at 512"):
        checkpoints.load(checkpoint("gpt2"))(torch.zeros(1, 513, dtype=torch.long))
    for after in ("streaming", "stretched:2", "interpolated:0"):
        with pytest.raises(ValueError, match=r"is not understood.\n  known: interpolated:N"):
            checkpoints.load(folder, after)
    with pytest.raises(ValueError, match="leave nothing of a cache of 3 tokens"):
        checkpoints.load(folder, "streaming:4", length=3)
    with pytest.raises(OSError, match="is no checkpoint folder"):
        checkpoints.load(tmp_path)


@pytest.mark.parametrize(
    ("kind", "after", "said"),
    [
        ("cohere", "streaming:3", "cohere does not turn or attend as Llama does"),
        ("cohere", "lm_infinite:3", "cohere does not turn or attend as Llama does"),
        ("falcon-alibi", "streaming:3", "falcon takes no other attention than its own"),
        ("falcon-alibi", "interpolated:4", "falcon has no rotary positions: it says the same wherever its tokens stand"),
    ],
)
def test_other_positions_are_for_models_that_have_such(checkpoint, kind, after, said):
    with pytest.raises(Unsupported, match=said):
        checkpoints.load(checkpoint(kind), after, length=T)


def test_another_model_that_turns_all_as_llama_rolls_as_llama(checkpoint, ids):
    plain, rolls = (checkpoints.load(checkpoint("gpt_neox-whole"), after, length=T) for after in ("", f"streaming:{SINKS}"))
    assert (plain(ids[:, :T]) - rolls(ids[:, :T])).norm() < 1e-5 * plain(ids[:, :T]).norm()
    assert (plain(ids) - rolls(ids)).norm() > 1e-2 * plain(ids).norm()
    watched.check_steps(rolls, ids)


def test_logits_are_of_the_dtype_that_is_asked_for(checkpoint, ids):
    assert checkpoints.load(checkpoint("mamba-told")).double()(ids).dtype == torch.float64


@pytest.mark.parametrize("kind", ["rwkv", "bloom-told", "mamba-told"])
def test_who_has_no_table_of_positions_reads_on(checkpoint, ids, kind):
    model = checkpoints.load(checkpoint(kind))
    assert (model.length, model.ends) == (32, None)
    assert model(ids).shape == (2, N, 257)


def test_who_fails_beyond_its_training_length_cannot_read_so_much(checkpoint):
    model, ids = checkpoints.load(checkpoint("mpt-told")), torch.arange(65)[None]
    with pytest.raises(Unsupported, match="cannot read more than 64 tokens: The size of tensor a"):
        model(ids)
    with pytest.raises(Unsupported, match="cannot read more than 64 tokens: The size of tensor a"):
        stepped(model, ids)


def test_a_digest_is_of_every_file(folder, tmp_path):
    copied = shutil.copytree(folder, tmp_path / "copied")
    assert checkpoints.digest(copied) == checkpoints.digest(folder)
    (copied / "tokenizer.json").write_text((copied / "tokenizer.json").read_text() + " ")
    assert checkpoints.digest(copied) != checkpoints.digest(folder)


def test_bits_per_byte_are_bits_over_bytes(folder):
    model = checkpoints.load(folder)
    documents = ["naïve déjà vu, twice: 東京. ".encode() * 3, b"plain"]
    texts = [checkpoints.text(document, model.tokenizer) for document in documents]
    assert [found.bytes_until[-1] for found in texts] == [len(document) for document in documents]
    assert texts[1].bytes_until == [1, 2, 3, 4, 5]
    scored, ends = 16, [(0, 30), (0, 57)]
    bits, right = [], []
    for document, end in ends:
        ids = texts[document].ids
        p = model(torch.tensor([ids[: end + 1]]))[0].detach().double().log_softmax(-1)
        nats = [float(p[i - 1, ids[i]]) for i in range(end - scored + 1, end + 1)]
        bits.append(-sum(nats) / math.log(2) / scored)
        right.append(-sum(nats) / math.log(2) / (texts[document].bytes_until[end] - texts[document].bytes_until[end - scored]))
    assert checkpoints.per_byte(bits, texts, ends, scored) == pytest.approx(right)
    assert right != pytest.approx(bits)  # letters of several bytes are one step of the count
    with pytest.raises(Unsupported, match="does not tell every byte"):
        checkpoints.text(b"", model.tokenizer)


def test_symbols_are_distinct_words_and_nothing_else_is_said(folder):
    model = checkpoints.load(folder)
    symbols = checkpoints.Symbols(model, 20)
    tokens = symbols.get_buffer("tokens").tolist()
    assert len(set(tokens)) == 20
    assert all(model.tokenizer.decode([token]).isalpha() for token in tokens)
    ids = torch.randint(20, (2, 9), generator=torch.Generator().manual_seed(0))
    whole = model(torch.tensor([[tokens[i] for i in row] for row in ids.tolist()]))
    assert torch.equal(symbols(ids), whole[:, :, tokens])
    with torch.no_grad():
        assert (stepped(symbols, ids)[0] - whole[:, :, tokens]).abs().max() < 1e-5
    with pytest.raises(Unsupported, match="has 52 words of one token, not 53"):
        checkpoints.Symbols(model, 53)


def test_weights_that_a_folder_lacks_are_not_made_up(folder, tmp_path):
    asked_for_more = shutil.copytree(folder, tmp_path / "more")
    config = json.loads((folder / "config.json").read_text())
    (asked_for_more / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 4}))
    said = r"more lacks weights that its config asks for: model\.layers\.2\.input_layernorm\.weight, .* and 15 more$"
    with pytest.raises(OSError, match=said):
        checkpoints.load(asked_for_more)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    kept = {name: x for name, x in model.state_dict().items() if name not in ("model.norm.weight", "lm_head.weight")}
    model.save_pretrained(shutil.copytree(folder, tmp_path / "two"), state_dict=kept)
    with pytest.raises(OSError, match=r"asks for: lm_head\.weight, model\.norm\.weight$"):
        checkpoints.load(tmp_path / "two", "streaming:4")


@pytest.mark.parametrize("kind", ["gpt2", "llama-tied"])
def test_an_embedding_that_is_tied_is_not_lacking(checkpoint, kind):
    model = checkpoints.load(checkpoint(kind)).model
    assert model.config.tie_word_embeddings
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_a_folder_that_cannot_be_asked_is_named_with_what_is_wrong(folder, tmp_path):
    def refused(change, said):
        place = tmp_path / "changed"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(folder, place)
        change(place)
        with pytest.raises(Unsupported, match=said) as refusal:
            checkpoints.load(place)
        assert str(place) in str(refusal.value)

    def nan(place):
        weights = load_file(place / "model.safetensors")
        weights["model.norm.weight"] *= torch.nan
        save_file(weights, place / "model.safetensors", metadata={"format": "pt"})

    def configured(place, **changes):
        path = place / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    def few(place):
        weights = load_file(place / "model.safetensors")
        weights |= {name: weight[:8].clone() for name, weight in weights.items() if "embed_tokens" in name or "lm_head" in name}
        save_file(weights, place / "model.safetensors", metadata={"format": "pt"})
        configured(place, vocab_size=8)

    refused(nan, "are not finite, the first of them model.norm.weight")
    refused(
        lambda place: configured(place, intermediate_size=32), "have other shapes than its config says, the first of them model"
    )
    refused(few, "tokens, its model embeddings of 8")
    refused(lambda place: [path.unlink() for path in place.glob("tokenizer*")], "has no tokenizer that transformers reads")
