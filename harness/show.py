"""Pages about one item for a person to read, and the beginning of an implementation of one's own."""

import textwrap

from harness import catalogue


def page(name: str) -> str:
    """What there is to know of a spec, an implementation (`spec/name`) or a suite."""
    if name in catalogue.specs():
        return _spec(name)
    if name in catalogue.suites():
        return _suite(catalogue.find("suite", name))
    if name in catalogue.implementations():
        return _implementation(catalogue.find("implementation", name))
    known = [*catalogue.specs(), *catalogue.suites(), *catalogue.implementations()]
    raise catalogue.NotFound(f"nothing is named {name!r}.{catalogue.suggestion(name, known)}")


def beginning(spec: str) -> str:
    """The text of a file that computes a spec at once: the shortest implementation there is, under a docstring of its own."""
    files = [item.path for item in catalogue.implementations(spec).values()]
    if not files:
        raise catalogue.NotFound(f"{spec} has no implementation to begin from.\n  Its contract: harness show {spec}")
    text = min((path.read_text() for path in files), key=len)
    body = text.split('"""', 2)[2].strip()
    contract = catalogue.load_spec(spec).contract
    return f'"""My implementation of {spec}: {contract}."""\n\nspec = "{spec}"\n\n{body}\n'


def _spec(name: str) -> str:
    spec = catalogue.load_spec(name)
    item = catalogue.find("spec", name)
    sizes = ", ".join(f"{key}={value}" for key, value in spec.sizes.items())
    parts = [
        f"{name}  ({item.path})",
        spec.doc,
        f"contract\n  {spec.contract}",
        *([_block("parameters", map(str, spec.parameters))] if spec.parameters else []),
        f"sizes, unless a case says otherwise\n  {sizes}",
        _block(
            "cases",
            (f"{case}: {', '.join(f'{k}={v}' for k, v in values.items()) or 'as above'}" for case, values in spec.cases.items()),
        ),
        _block("input families", spec.families),
        _block("laws", (law.replace("_", " ") for law in spec.laws)),
        _block("known mistakes, each caught by some case", spec.mistakes),
        _block("implementations", (f"{item.name}  {item.doc}" for item in catalogue.implementations(name).values())),
    ]
    return "\n\n".join(parts)


def _implementation(item: catalogue.Item) -> str:
    facts = (f"{name} = {value}" for name, value in item.facts.items() if not name.startswith("_"))
    spec = item.name.partition("/")[0]
    return "\n\n".join(
        [
            f"{item.name}  ({item.path})",
            item.doc,
            _block("facts", facts),
            f"judge it\n  harness run suite=correctness spec={spec} impl={item.name.partition('/')[2]}",
        ]
    )


def _suite(item: catalogue.Item) -> str:
    settings = (f"{name}={value}" for name, value in item.facts.get("settings", {}).items())
    limits = ", ".join(f"{name} {value}" for name, value in item.facts.get("limits", {}).items())
    return "\n\n".join(
        [
            f"{item.name}  ({item.path})",
            item.doc,
            _block("settings", settings),
            f"limits of a cell (seconds, GiB)\n  {limits}",
            f"run it\n  harness run suite={item.name}",
        ]
    )


def _block(title: str, lines) -> str:
    return title + "\n" + textwrap.indent("\n".join(lines) or "none", "  ")
