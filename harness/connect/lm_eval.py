"""Our language models as a model of lm-evaluation-harness, and its command line with that model and our tasks added.

    python -m harness.connect.lm_eval --model harness --model_args weights=FILE.pt --tasks sentiment_words_gold --num_fewshot 8
    python -m harness.connect.lm_eval --model harness --model_args spec=retnet,impl=torch_parallel,d=32 --tasks passkey_1024
    python -m harness.connect.lm_eval --model hf --model_args pretrained=FOLDER --tasks sentiment_words,passkey

lm_eval looks for models in its own package alone: there is no entry point and no path that would let `lm_eval` find this one. So
this command is lm_eval's own, after `harness` was registered; in Python, importing this module does the same. The tasks need
neither: `lm_eval --include_path harness/connect/tasks` takes them with any of lm_eval's models.

FILE.pt is what `python -m harness.connect.exported` writes. Without it the model is untrained, with the sizes that are given.
"""

import logging
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import lm_eval.models  # noqa: F401 (lm_eval registers its own models by itself only as long as nobody else has registered any)
import torch
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from torch import Tensor

from harness import Unsupported, plan
from harness.connect import exported

TASKS = Path(__file__).parent / "tasks"
NEW_LINE = 10  # what stands before a text of which nothing goes before
GENERATED = 256  # bytes at most, where a task does not say how many
log = logging.getLogger(__name__)


@register_model("harness")
class HarnessLM(LM):
    """A byte-level model of the harness: text is UTF-8, a byte is a token, and there are no others.

    weights: a file that was exported; else spec, impl and variant name the model, `seed` its first values, and further numbers
    its sizes. max_length: what is longer loses its first bytes, and how many did is said in the log and in the results; without
    it a text that is too long for the model ends the run with a sentence, for lm_eval has no word for `unsupported`.
    """

    def __init__(
        self,
        weights: str = "",
        spec: str = "",
        impl: str = "",
        variant: str = "",
        seed: int = 0,
        max_length: int = 0,
        batch_size: int | str = 16,
        max_batch_size: int | None = None,
        device: str = "cpu",
        **sizes: int,
    ):
        super().__init__()
        if bool(weights) == bool(spec and impl):
            raise ValueError("say weights=FILE.pt, or spec=... and impl=... for an untrained model")
        if weights and (sizes or spec or impl or variant):
            raise ValueError(f"{weights} says itself which model it is and of which sizes; leave the others out")
        if not str(batch_size).isdigit() or int(batch_size) < 1:
            raise ValueError(f"batch_size={batch_size} is no number of rows")
        if device.startswith("cuda") and not torch.cuda.is_available():
            log.warning("device=%s, but no GPU is seen here: taking the CPU", device)  # lm_eval's command line says cuda:0 itself
            device = "cpu"
        self.asked = exported.load(weights, device) if weights else exported.untrained(spec, impl, variant, sizes, seed, device)
        self.max_length, self.batch_size, self._device = max_length, int(batch_size), torch.device(device)
        self.cut = 0  # texts that lost their first bytes

    def get_model_info(self) -> dict[str, Any]:
        """What lm_eval writes beside the results."""
        module = self.asked.module
        return {
            "model_num_parameters": sum(p.numel() for p in module.parameters()),
            "harness_model": self.asked.name,
            "harness_told": dict(self.asked.told),
            "harness_max_length": self.max_length or None,
            "harness_texts_cut": self.cut,
        }

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Of each (context, continuation): ln p(continuation | context) of its bytes, and whether each was the likeliest."""
        pairs = [(_bytes(context) or [NEW_LINE], _bytes(continuation)) for context, continuation in _arguments(requests)]
        answers = self._scored(pairs)
        for request, answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial("loglikelihood", request.args, answer)
        return answers

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Of each text: ln p of its bytes after a new line; in windows of max_length, each but the first as full as can be."""
        sums = []
        for (text,) in _arguments(requests):
            windows = list(_windows(_bytes(text), self.max_length))
            sums.append(sum(answer for answer, _ in self._scored(windows)))
        for request, answer in zip(requests, sums, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, answer)
        return sums

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Of each (context, options): the likeliest byte, one after the other, until one of `until` or `max_gen_toks` bytes."""
        contexts = [self._kept(_bytes(context) or [NEW_LINE], 1) for context, _ in _arguments(requests)]
        options, answers = [_options(options) for _, options in _arguments(requests)], [""] * len(requests)
        for rows in self._batches([len(context) for context in contexts]):
            said = self._continued([contexts[row] for row in rows], [options[row] for row in rows])
            for row, text in zip(rows, said, strict=True):
                for stop in options[row][0]:
                    text = text.split(stop)[0]
                answers[row] = text.decode(errors="replace")
        for request, answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial("generate_until", request.args, answer)
        return answers

    @torch.inference_mode()
    def _scored(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
        """Of each (context, continuation), ids: ln p(continuation | context), and whether each id was the likeliest."""
        answers: list[tuple[float, bool]] = [(0.0, True)] * len(pairs)
        texts = [self._kept([*context, *continuation][:-1], len(continuation)) for context, continuation in pairs]
        for rows in self._batches([len(text) for text in texts]):
            logits = self._logits([texts[row] for row in rows])
            for i, row in enumerate(rows):
                asked = torch.tensor(pairs[row][1])
                found = logits[i, len(texts[row]) - len(asked) : len(texts[row])].double().log_softmax(-1).cpu()
                total = float(found.gather(1, asked[:, None]).sum())
                answers[row] = (total, bool((found.argmax(1) == asked).all()))
        return answers

    @torch.inference_mode()
    def _continued(self, contexts: Sequence[list[int]], options: Sequence[tuple[list[bytes], int]]) -> list[bytes]:
        """What is said after each context, up to and including what ends it; the last max_length bytes are read each time."""
        said = [b""] * len(contexts)

        def goes_on(i: int) -> bool:
            until, most = options[i]
            return len(said[i]) < most and not any(stop in said[i] for stop in until)

        while going := [i for i in range(len(said)) if goes_on(i)]:
            texts = [[*contexts[i], *said[i]][-self.max_length :] for i in going]  # all of it where max_length is 0
            for i, text, logits in zip(going, texts, self._logits(texts), strict=True):
                said[i] += bytes([int(logits[len(text) - 1].argmax())])
        return said

    def _logits(self, texts: Sequence[list[int]]) -> Tensor:
        """logits[b n v] of texts that are filled up to the longest; the filling comes after them, where no position sees it."""
        longest = max(map(len, texts))
        ids = torch.tensor([text + [NEW_LINE] * (longest - len(text)) for text in texts], device=self._device)
        try:
            return self.asked.module(ids)
        except Unsupported as reason:
            raise Unsupported(
                f"{self.asked.name} cannot read {longest} bytes: {reason}.\n"
                "  Say max_length=N to give it the last N bytes of what is longer; how many texts that cuts is said then."
            ) from None

    def _kept(self, text: list[int], scored: int) -> list[int]:
        """The last max_length ids of a text, which must leave room for what is scored."""
        if not self.max_length or len(text) <= self.max_length:
            return text
        if scored > self.max_length:
            raise Unsupported(f"a continuation of {scored} bytes does not fit into max_length={self.max_length}")
        if not self.cut:
            log.warning("texts longer than %d bytes lose their first bytes, as max_length says", self.max_length)
        self.cut += 1
        return text[-self.max_length :]

    def _batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Rows of about one length together, the longest first: what does not fit is known at once."""
        order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
        yield from (order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size))


def _arguments(requests: Iterable[Any]) -> list[Any]:
    return [request.args for request in requests]


def _bytes(text: str) -> list[int]:
    return list(text.encode())


def _windows(text: list[int], longest: int) -> Iterator[tuple[list[int], list[int]]]:
    """(context, what is scored): each byte is scored once, in windows of at most `longest`, 0 for one window of all."""
    longest = longest or len(text)
    for start in range(0, len(text), max(1, longest)):
        scored = text[start : start + longest]
        before = [NEW_LINE, *text[:start]]
        yield before[len(before) + len(scored) - 1 - longest :] if start else before, scored


def _options(options: dict[str, Any]) -> tuple[list[bytes], int]:
    """The texts that end a generation, and how many bytes it may have. Unsupported where it is not to be greedy."""
    if options.get("do_sample") or float(options.get("temperature") or 0.0) > 0:
        raise Unsupported("the likeliest byte is taken each time; sampling (do_sample, temperature) is not built")
    until = options.get("until") or []
    stops = [until] if isinstance(until, str) else until
    return [stop.encode() for stop in stops if stop], int(options.get("max_gen_toks", GENERATED))


def main() -> None:
    """lm_eval's command line, with our tasks where no other folder is named."""
    from lm_eval.__main__ import cli_evaluate

    if len(sys.argv) > 2 and not any(word.startswith("--include_path") for word in sys.argv):
        sys.argv += ["--include_path", str(TASKS)]
    try:
        cli_evaluate()
    except plan.WrongRequest as error:
        print(f"harness: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
