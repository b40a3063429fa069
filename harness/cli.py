"""The command line: words in, verdicts and tables out. Exit status: 0 all well, 1 some cell is not, 2 the request was wrong.

Nothing heavy is imported before it is needed: `harness list` reads paths and literals only.
"""

import keyword
import shlex
import signal
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from harness import catalogue, plan
from harness.cell import OK, UNSUPPORTED
from harness.contract import ContractError
from harness.request import Request, folder, limits_of, machine_of, read

app = typer.Typer(
    help="Judge sequence-model components: is it right, does it hold past its training length, what does it cost?",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
RUN = {"tables": True}  # words that `run` alone understands, with their defaults
# The only words of these three commands; the others take the settings of a suite.
AGAIN, SCORE, NEW = ("results", "timeout", "memory"), ("format", "out", "machine", "results"), ("spec",)
Words = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings, such as suite=correctness spec=attention.")
]


@app.command("list")
def list_(kind: Annotated[str, typer.Argument(help="specs, implementations or suites; all of them by default.")] = "all") -> None:
    """List what there is."""
    found = {"specs": catalogue.specs, "implementations": catalogue.implementations, "suites": catalogue.suites}
    if kind not in (*found, "all"):
        raise plan.WrongRequest(f"cannot list {kind!r}.{catalogue.suggestion(kind, found)}")
    for name in found if kind == "all" else [kind]:
        items = found[name]()
        width = max(map(len, items), default=0)
        typer.echo(f"{name}:")
        for item in items.values():
            typer.echo(f"  {item.name:<{width}}  {item.doc}")


@app.command()
def show(name: Annotated[str, typer.Argument(help="A spec, an implementation (spec/name) or a suite.")]) -> None:
    """Show one item: for a spec its contract, cases, laws and mistakes."""
    from harness.show import page

    typer.echo(page(name))


@app.command("plan")
def plan_(words: Words = None) -> None:
    """Say what `run` would ask, and what the store already answers."""
    request = Request(read(words))
    todo, answered, seconds = request.split()
    for (subject, device), count in Counter((cell.subject, cell.device) for cell, _ in todo).items():
        typer.echo(f"{count:6} cells  {subject}  on {device}")
    typer.echo(f"{len(todo)} cells to ask{request.about(seconds)}, {len(answered)} answered already in {request.store.root}/")


@app.command()
def run(words: Words = None) -> None:
    """Ask every implementation of a selection what a suite asks; print and write the table, if not tables=false."""
    from harness import pages, progress, report, runner

    settings: dict[str, Any] = dict(read(words))
    tables = plan.typed_as("tables", settings.pop("tables", RUN["tables"]), RUN["tables"])
    plan.checked(settings)
    runner.start_early()
    request = Request(settings)
    todo, records, seconds = request.split()
    if seconds:
        typer.echo(f"{len(todo)} cells{request.about(seconds)}; interrupted, it goes on where it was", err=True)
    records += progress.follow(todo, request.limits, request.store, seconds)
    if not tables:
        typer.echo(report.summary(records))
        _close(records)
    typer.echo(report.render(report.tables(request.suite, records), "text"))
    files = pages.write(request.store.root, request.title, request.suite, request.stored())
    typer.echo(f"\n{report.summary(records)} ({len(records) - len(todo)} from the store)")
    typer.echo("written: " + ", ".join(map(str, files)))
    _tell_grades(records)
    _close(records)


@app.command()
def again(
    key: Annotated[str, typer.Argument(help="The key of a stored record, or its first digits.")], words: Words = None
) -> None:
    """Ask one stored cell again, exactly as it was asked."""
    from harness import progress, report
    from harness.store import Store

    settings = _only(AGAIN, "again", words)
    store = Store(folder(settings.pop("results", "results")))
    found = {record.cell.key: record for record in store.read() if record.cell.key.startswith(key)}
    if len(found) != 1:
        said = f"no record has the key {key!r}" if not found else f"{len(found)} keys begin with {key!r}: {', '.join(found)}"
        raise plan.WrongRequest(
            f"{said} in {store.root}/.\n  See which there are: harness table suite=NAME, or run the suite again"
        )
    cell = next(iter(found.values())).cell
    _, suite = plan.selection({"suite": cell.suite})
    typed = {word: plan.typed_as(word, value, 0.0) for word, value in settings.items()}
    limits = limits_of(suite, {"timeout": 0.0, "memory": 0.0, "workers": 1} | typed)
    records = progress.follow([(cell, plan.digests(cell, suite))], limits, store, {})
    typer.echo(report.message(records[0]) + _values(records[0].values))
    raise typer.Exit(_status(records))


@app.command()
def check(
    path: Annotated[str, typer.Argument(help="A file, package.module or package.module:function.")], words: Words = None
) -> None:
    """Judge one file straight away: every case, dtype, family and law. Nothing is stored."""
    from harness import progress, report

    settings: dict[str, Any] = dict(read(words))
    if "impl" in settings:
        raise plan.WrongRequest(f"`check` judges {path} alone; for several say: harness run suite=correctness impl={path},...")
    if Path(path).is_dir():
        raise plan.WrongRequest(f"{path or '.'} is a folder; give the file: harness check {Path(path) / 'FILE.py'}")
    name = path if plan.outside(path) else f"{path}.py" if Path(f"{path}.py").is_file() else path
    if "spec" not in settings:
        declared = catalogue.implementation("", name).facts.get("spec") if plan.outside(name) else None
        if not declared:
            raise plan.WrongRequest(f"which spec does {path} claim to compute? Say spec=NAME.\n  All of them: harness list specs")
        settings["spec"] = declared
    request = Request({"suite": "correctness", **settings, "impl": name})
    todo: list[tuple[Any, dict[str, str]]] = [(cell, {}) for cell in request.cells]
    words_again = f"harness check {shlex.quote(path)} " + "spec={cell.spec} case={cell.case} dtype={cell.dtype} {question}"
    records = progress.follow(todo, request.limits, None, {}, words_again)
    typer.echo(report.render(report.tables(request.suite, records), "text"))
    typer.echo(f"\n{report.summary(records)}")
    _tell_grades(records)
    _close(records, words_again)


@app.command()
def audit(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SPEC]... [KEY=VALUE]...", help="Specs, by default all; case= family= dtype= detail= results=."),
    ] = None,
) -> None:
    """Judge the judge: are the known mistakes of a spec and the mutants of its reference caught?"""
    from harness import audit as judge_of_judges
    from harness import machine, progress, report

    specs = [word for word in words or () if "=" not in word]
    settings = read([word for word in words or () if "=" in word], judge_of_judges.WORDS)
    asked = judge_of_judges.chosen(specs, settings)
    meter = progress.Meter({job: asked.cost(job) for job in asked.jobs}, "cases")
    with progress.shown(meter) as show:

        def seen(done: Sequence[Any], running: Sequence[Any]) -> None:
            for job in done:
                meter.finished(job)
            show.update(dict.fromkeys(running, (0.0, "")))

        asked.run(machine.cores(), seen)
    found = judge_of_judges.tables(asked)
    typer.echo(report.render({title: found[title] for title in list(found)[:2]}, "text"))
    if "results" in settings:
        files = judge_of_judges.write(asked, folder(settings["results"]))
        typer.echo("\nwritten: " + ", ".join(map(str, files)))
    if said := judge_of_judges.complaints(asked):
        typer.echo("\n" + said, err=True)
    raise typer.Exit(int(bool(said)))


@app.command()
def new(
    kind: Annotated[str, typer.Argument(help="implementation")],
    name: Annotated[str, typer.Argument(help="The name of the new file.")],
    words: Words = None,
) -> None:
    """Write a file that runs at once: the start of an implementation of one's own."""
    from harness.show import beginning

    settings = read(words, NEW)
    if kind != "implementation":
        raise plan.WrongRequest(f"cannot make a new {kind!r}.{catalogue.suggestion(kind, ['implementation'])}")
    if set(settings) != set(NEW):
        raise plan.WrongRequest(f"say which spec: harness new implementation {name} spec=NAME\n  All of them: harness list specs")
    spec = catalogue.find("spec", settings["spec"]).name
    file = _new_file(name, spec)
    file.write_text(beginning(spec))
    typer.echo(
        f"{file} is written: a copy of the simplest form, to be replaced by yours.\n  Judge it: harness check {file} spec={spec}"
    )


def _new_file(name: str, spec: str) -> Path:
    """The file that is to be written: in a folder that is there, importable, and not there yet."""
    file = Path(name if name.endswith(".py") else f"{name}.py")
    taken = keyword.iskeyword(file.stem) or file.stem in sys.stdlib_module_names or catalogue.is_module(file.stem)
    if not file.parent.is_dir():
        raise plan.WrongRequest(f"there is no folder {file.parent} to write {file.name} into")
    if not file.stem.isidentifier() or taken:
        raise plan.WrongRequest(
            f"{file.stem!r} is no name for a module of yours.\n"
            f"  Try: harness new implementation my_{_identifier(file.stem)} spec={spec}"
        )
    if file.exists():
        raise plan.WrongRequest(f"{file} is there already; it is left as it is.\n  Judge it: harness check {file} spec={spec}")
    return file


@app.command()
def table(words: Words = None) -> None:
    """Print the table of a suite from what is stored; format=text, markdown, csv, latex, html or parquet, out=FILE."""
    from harness import report

    settings = read(words)
    form, out = _form(settings)
    where = machine_of(settings)
    request = Request(settings)
    known = list(request.store.lines(request.name, where))
    records = request.newest(filter(None, known))
    if many := known.count(None):
        said = "1 line is no record and is" if many == 1 else f"{many} lines are no records and are"
        typer.echo(f"{said} passed over: {request.store.path(where, request.name)}", err=True)
    if not records:
        others = sorted({path.parent.name for path in request.store.root.glob(f"records/*/{request.name}.jsonl")} - {where})
        raise plan.WrongRequest(
            f"nothing is stored of {request.name} for this selection on {where}.\n"
            + (f"  stored here with: {', '.join(ways)}\n" if (ways := request.otherwise(filter(None, known))) else "")
            + (f"  machines with records: {', '.join(others)} (say machine=NAME)\n" if others else "")
            + f"  Measure it: harness run suite={request.name}"
        )
    _show(report.tables(request.suite, records), form, out)


@app.command()
def compare(
    words: Annotated[
        list[str],
        typer.Argument(metavar="A B [KEY=VALUE]...", help="Two git revisions (. is the working tree), or two stored selections."),
    ],
) -> None:
    """Say whether revision B got slower or costlier than A; or set two stored selections side by side."""
    first, second, settings = _two(words)
    form, out = _form(settings)
    if "=" in first:
        raise typer.Exit(_compare_stored(first, second, settings, form, out))
    from harness import findings, gate

    found = gate.compare(first, second, settings)
    lines = [findings.summary(found), *filter(None, [findings.calibration(found)]), *found.notes]
    _show(findings.tables(found), form, out, lines)
    if said := findings.failures(found):
        typer.echo("\n" + said, err=True)
    raise typer.Exit(int(found.failed))


@app.command()
def score(
    name: Annotated[str, typer.Argument(help="An implementation: spec/name, name, or spec/name:variant.")], words: Words = None
) -> None:
    """Print the card of one implementation, its standing in every suite, as stored; format= out=FILE machine= results=."""
    from harness import report
    from harness import score as cards
    from harness.store import Store

    settings = _only(SCORE, "score", words)
    form, out = _form(settings)
    where = machine_of(settings)
    store = Store(folder(settings.get("results", "results")))
    records = cards.stored(store, where)
    subjects = cards.resolved(name, [*cards.registered(), *(record.cell.subject for record in records)])
    if not any(record.cell.subject in subjects for record in records):
        others = sorted({record.machine for record in store.read() if record.cell.subject in subjects})
        raise plan.WrongRequest(
            f"nothing is stored of {name} on {where}.\n"
            + (f"  machines with records of it: {', '.join(others)} (say machine=NAME)\n" if others else "")
            + f"  Measure it: {cards.command('correctness', subjects)}"
        )
    _show(report.with_provenance(cards.tables(subjects, records), records), form, out)


@app.command()
def doctor() -> None:
    """Say what this machine can do: devices, Triton, compilers, extras."""
    from harness.doctor import report

    typer.echo(report())


def _two(words: Sequence[str]) -> tuple[str, str, dict[str, str]]:
    """The two that are compared, both revisions or both selections, and the settings after them."""
    chosen = [[part.partition("=")[0] for part in word.split() if "=" in part] for word in words[:2]]
    if len(words) < 2 or bool(chosen[0]) != bool(chosen[1]) or any("suite" in keys for keys in chosen):
        raise plan.WrongRequest(
            "`compare` takes two first: git revisions, or stored selections.\n"
            "  Revisions: harness compare main . spec=attention\n"
            "  Selections: harness compare impl=plain 'impl=torch_sdpa variant=flash' suite=speed spec=attention"
        )
    return words[0], words[1], read(words[2:])


def _compare_stored(first: str, second: str, settings: dict[str, str], form: str, out: Path | None) -> int:
    """Show two stored selections side by side, and return the exit status: 1 where nothing of the two could be paired."""
    from harness import selections
    from harness.store import Store

    store = Store(folder(settings.pop("results", "results")))
    if "suite" not in settings:
        raise plan.WrongRequest(f"which suite? Say suite=NAME.\n  known: {', '.join(catalogue.suites())}")
    suite, quantity = catalogue.find("suite", settings.pop("suite")).name, settings.pop("quantity", "")
    a, b = selections.choice("A", first), selections.choice("B", second)
    found = selections.compare(a, b, suite, settings, quantity, store)
    if found.rows:
        _show(selections.tables(found), form, out, [found.summary])
    else:
        typer.echo(selections.nothing_paired(found), err=True)
    return int(not found.rows)


def _only(known: Sequence[str], command: str, words: Sequence[str] | None) -> dict[str, Any]:
    """The settings of a command that takes these and no other."""
    settings = read(words, known)
    if unknown := set(settings) - set(known):
        raise plan.WrongRequest(f"`{command}` takes no {unknown.pop()!r}; it takes {', '.join(known[:-1])} and {known[-1]}")
    return settings


def _form(settings: dict[str, Any]) -> tuple[str, Path | None]:
    """The format of a table, and the file that it goes to, taken out of the settings."""
    from harness import report

    form, out = str(settings.pop("format", "text")), settings.pop("out", None)
    if form not in report.FORMATS:
        raise plan.WrongRequest(f"no format named {form!r}.{catalogue.suggestion(form, report.FORMATS)}")
    if form in report.FILES and not out:
        raise plan.WrongRequest(f"format={form} is no text for a screen: say where to, format={form} out=table.{form}")
    if form == "parquet" and not catalogue.is_module("pyarrow"):
        raise plan.WrongRequest(
            "format=parquet takes pyarrow, which is not installed.\n  Install it: pip install 'sequence-harness[parquet]'"
        )
    if out and not Path(out).absolute().parent.is_dir():
        raise plan.WrongRequest(f"out={out}: there is no folder {Path(out).parent} to write it into")
    if out and Path(out).is_dir():
        raise plan.WrongRequest(f"out={out} is a folder; give the file: out={Path(out) / 'table'}.{form}")
    return form, Path(out) if out else None


def _show(frames: Any, form: str, out: Path | None, lines: Sequence[str] = ()) -> None:
    """Tables on the screen or in a file, under lines that a person reads; these leave a format for programs alone."""
    from harness import report

    read = form in ("text", "markdown")
    for line in lines:
        typer.echo(line, err=not read)
    if out:
        typer.echo("written: " + ", ".join(map(str, report.save(frames, form, out))), err=True)
    elif frames:
        typer.echo(("\n" if lines and read else "") + report.render(frames, form))


def _tell_grades(records: Sequence[Any]) -> None:
    from harness import report

    if said := report.legend(records):
        typer.echo(said)


def _close(records: Sequence[Any], again: str = "harness again {key}") -> NoReturn:
    """Say who supports nothing and why, and what failed; and end the command with the exit status of these records."""
    from harness import report

    for said in filter(None, (report.refusals(records), report.failures(records, again))):
        typer.echo("\n" + said, err=True)
    raise typer.Exit(_status(records))


def _status(records: Sequence[Any]) -> int:
    """The exit status: 1 where some cell is neither ok nor unsupported."""
    return int(any(record.outcome not in (OK, UNSUPPORTED) for record in records))


def _values(values: Any) -> str:
    """The numbers and words among the values of a record, a line each."""
    return "".join(f"\n  {name}: {value}" for name, value in values.items() if not isinstance(value, dict | list))


def _identifier(name: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in name).lstrip("0123456789") or "mine"


def _check_text(words: Sequence[str]) -> None:
    """WrongRequest where a word, the name of a file as a rule, has bytes that are no text: no table could name it."""
    for word in words:
        if word.encode(errors="replace") != word.encode(errors="surrogatepass"):
            raise plan.WrongRequest(
                f"{word!r} is no text in UTF-8.\n  Rename the file, or take a locale of UTF-8: LC_ALL=C.UTF-8"
            )


def main() -> None:
    """Run the command line; a wrong request is a message and status 2; an interruption, or an end asked for, is status 130."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as ^C does, it ends what was begun and takes away what was made
    try:
        _check_text(sys.argv[1:])
        app()
    except (plan.WrongRequest, catalogue.NotFound, ContractError, OSError) as error:
        typer.echo(f"harness: {error}", err=True)
        sys.exit(2)
    except SystemExit as end:
        if isinstance(end.__context__, typer.Exit) and isinstance(end.__context__.__cause__, KeyboardInterrupt):
            typer.echo("\nharness: interrupted", err=True)  # typer ends so in silence
        raise


if __name__ == "__main__":
    main()
