"""A checkpoint folder of transformers, model=FOLDER, as it is or with other positions after training; symbols are its words."""

from harness import Unsupported
from harness.connect.checkpoint import Symbols, load

devices = ("cpu", "cuda")
dtypes = ("float32",)
requires = ("transformers",)
takes_model = True
variants = {
    "as_it_is": {},
    "interpolated_by_4": {"after": "interpolated:4"},
    "four_sinks": {"after": "streaming:4"},
    "lm_infinite": {"after": "lm_infinite:4"},
}


def prepare(case, after=""):
    if not (folder := case.values.get("model")):
        raise Unsupported("no checkpoint is named: say model=FOLDER")
    return Symbols(load(folder, after, device=case.device), case.v)
