"""Names of cells, read from the files of this checkout without importing them; and what makes results comparable.

asv takes benchmarks from the checkout it is started in, and asks them of any commit. So do names: an index into them means the
same cell at every commit, and a cell that a commit lacks is skipped there.
"""

import ast
import importlib.util
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DTYPES = ("float32", "float16", "bfloat16")


def _loaded(path: Path) -> Any:
    """A module of this checkout under a name of its own, beside the one of the commit that is asked."""
    found = importlib.util.spec_from_file_location(f"{path.stem}_of_the_checkout", path)
    assert found
    assert found.loader
    module = importlib.util.module_from_spec(found)
    sys.modules[found.name] = module
    found.loader.exec_module(module)
    return module


catalogue = _loaded(ROOT / "harness" / "catalogue.py")
SCALES = catalogue.Item("module", "work", ROOT / "harness" / "work.py").facts["SCALES"]
TARGETS = catalogue.Item("module", "kernels", ROOT / "harness" / "kernels.py").facts["TARGETS"]
LONGEST = SCALES["smoke"]["lengths"][-1]
IMPLEMENTATIONS = {name: item for name, item in catalogue.implementations().items() if not item.facts.get("takes_model")}


def specs() -> list[str]:
    """Specs of which there are implementations."""
    there = {name.partition("/")[0] for name in IMPLEMENTATIONS}
    return [spec for spec in catalogue.specs() if spec in there]


def of_models(spec: str) -> bool:
    """Whether its implementations have parameters: they give logits."""
    return "-> logits" in catalogue.find("spec", spec).contract


@cache
def subjects(spec: str, fact: str = "") -> dict[str, Any]:
    """Each implementation of a spec with each variant, and the facts of its file; of those that state `fact`, if given."""
    found = {}
    for name, item in IMPLEMENTATIONS.items():
        if name.partition("/")[0] == spec and (not fact or fact in item.facts):
            for variant in item.facts.get("variants", {"": {}}):
                found[name + (f":{variant}" if variant else "")] = item.facts
    return found


def cells(spec: str, *forms: str) -> list[str]:
    """What suite=speed and suite=memory ask at the longest of scale=smoke: `attention/torch_sdpa:flash causal forward 64`."""
    return [
        f"{subject} {case} {form} {LONGEST}"
        for case, form in _questions(spec)
        if form in (forms or (form,))
        for subject in subjects(spec)
    ]


def shapes(spec: str) -> list[str]:
    """What suite=kernels asks: `attention/triton_flash width_64 bfloat16 sm_90`."""
    return [
        f"{subject} {shape} {dtype} {target}"
        for subject, facts in subjects(spec, "compiles").items()
        for shape in facts["compiles"]
        for dtype in facts.get("dtypes", DTYPES)
        for target in TARGETS
    ]


def judged(spec: str) -> list[str]:
    """Whom suite=correctness judges in which dtype: `attention/plain float32`."""
    return [f"{subject} {dtype}" for subject in subjects(spec) for dtype in DTYPES]


def version(suite: str, spec: str) -> str:
    """Digests of the definition and of the instrument, not of the code measured: results of other versions are not comparable."""
    return " ".join(digest[:8] for digest in digests(suite, spec).values())


def digests(suite: str, spec: str) -> dict[str, str]:
    """Of the definition and of the instrument of this checkout, by what a record calls them."""
    return {kind: catalogue.digest(path) for kind, path in _measuring(suite, spec).items()}


def unlike(suite: str, spec: str, there: Any) -> str:
    """The first file in which the commit that is asked (its `harness.catalogue`) measures otherwise than this checkout, or ''."""
    for file in sorted(file for path in _measuring(suite, spec).values() for file in catalogue.reachable(path)):
        name = file.relative_to(ROOT)
        other = (there.PACKAGE.parent if name.parts[0] == "harness" else there.HOME) / name
        if not other.is_file() or _said(other) != _said(file):
            return name.as_posix()
    return ""


def _said(file: Path) -> str:
    """What a file says to Python, of which its digest is: all but comments and layout."""
    return ast.dump(ast.parse(file.read_bytes()))


def _measuring(suite: str, spec: str) -> dict[str, Path]:
    return {"spec": catalogue.find("spec", spec).path, "suite": catalogue.find("suite", suite).path}


@cache
def _questions(spec: str) -> list[tuple[str, str]]:
    """Cases and forms in which `harness.work` asks a spec, as its file says it."""
    item = catalogue.find("spec", spec)
    if of_models(spec):
        steps = ["step"] if re.search(r"-> logits\[[^]]*\bn\b", item.contract) else []  # an encoder answers once
        return [("plain", form) for form in ("forward", "training", *steps)]
    calls = [node for node in ast.walk(ast.parse(item.path.read_bytes())) if isinstance(node, ast.Call)]
    told = [node for node in calls if isinstance(node.func, ast.Attribute) and node.func.attr == "work"]
    words = {word.arg: word.value for node in told for word in node.keywords}
    cases = list(ast.literal_eval(words["cases"])) if "cases" in words else ["plain"]
    # A tensor of the contract that says nothing of its kind is one of floats, which have gradients.
    floats = re.search(r"\](?!:)", item.contract.partition("->")[0])
    forms = ["forward", *(["training"] if floats else []), *(["step"] if "step" in words else [])]
    return [(case, form) for case in cases for form in forms]
