"""Judges the judge: are wrong functions caught?

Wrong are the known mistakes of a spec and the automatic mutants of its reference (`mutants`). Each plays the implementation,
in float64, with its results stored in the tested dtype, and is caught, or survives. A mutant that is no mistake is named in
`EQUIVALENT` beside the reference, with the argument why; followed by ", bfloat16" if it is none in that dtype. Nothing leaves
the denominator.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from harness import catalogue, machine, mutants, plan
from harness.spec import DTYPES, Case, Mistake, Spec
from harness.trial import JUDGES, OURS, PLAIN, Trial

if TYPE_CHECKING:
    import pandas as pd

# In this order one says more of a wrong function than another, where they differ between dtypes.
STATUSES = ("equivalent", "caught", "survived")
DEFAULT = ("float32", "bfloat16")
SURVIVED = "What survived"
# Tables that only an audit in full makes.
PLAIN_REJECTED, BY = "How often each rule rejects plain code in the tested dtype", "What each {} catches"
IN_FULL = (PLAIN_REJECTED, BY.format("family"), BY.format("case"))
# What may be said of an audit, and the values that are known beforehand.
WORDS = {"case": (), "family": (), "dtype": tuple(DTYPES), "detail": ("first", "full"), "results": ()}


@dataclass
class Wrong:
    """A wrong function of a spec in one dtype, and what became of it."""

    spec: str
    name: str
    dtype: str
    where: str  # file and line of a mutant
    argument: str = ""  # why it is no mistake
    # For each judge the first trial that catches it: case, family, how; over all families, and over `normal` alone.
    ever: dict[str, tuple[str, str, str]] = field(default_factory=dict)
    normal: dict[str, tuple[str, str, str]] = field(default_factory=dict)
    by: list[tuple[str, str]] = field(default_factory=list)  # each case and family by which the budget catches it, so far
    closest: tuple[float, str, str] = (-1.0, "", "")

    @property
    def subject(self) -> str:
        return f"{self.spec} {self.dtype}"

    @property
    def status(self) -> str:
        return "caught" if OURS in self.ever else "equivalent" if self.argument else "survived"

    @property
    def raises(self) -> bool:
        return self.status == "caught" and not self.ever[OURS][2].startswith("score")

    def left(self, family: str, full: bool) -> list[str]:
        """The judges to be asked in this family: those that have not caught it yet, and the budget always if all is wanted."""
        caught = self.normal if family == "normal" else self.ever
        return [judge for judge in ((OURS,) if self.argument else JUDGES) if judge not in caught or (full and judge == OURS)]

    def heard(self, case: str, family: str, caught: Sequence[str], score: float, how: str) -> None:
        """Take note of what came of one case and family: which judges caught it, with what score, and how."""
        for judge in caught:
            self.ever.setdefault(judge, (case, family, how))
            if family == "normal":
                self.normal.setdefault(judge, (case, family, how))
        if OURS in caught:
            self.by.append((case, family))
        elif score > self.closest[0]:
            self.closest = (score, case, family)


@dataclass(frozen=True)
class Job:
    """One case of a spec in one dtype: what is asked together, and in one process."""

    spec: str
    dtype: str
    case: str
    families: tuple[str, ...]
    size: int
    before: int  # how many cases of the spec go before it

    @property
    def subject(self) -> str:
        return f"{self.spec} {self.dtype}"


@cache
def wrong_functions(name: str) -> dict[str, Mistake]:
    """The known mistakes of a spec, and the mutants of its reference."""
    spec = catalogue.load_spec(name)
    return {**spec.mistakes, **{mutant.name: mutant for mutant in mutants.mutants(spec)}}


def ask(job: Job, wanted: Mapping[str, Mapping[str, list[str]]], full: bool) -> list[tuple[str, str, list[str], float, str]]:
    """Put the case to wrong functions, for the judges that are wanted of each in each family.

    A row is the wrong function, the family, who catches it, its score and how it fails. Who has caught it is not asked again.
    If all is wanted, plain code in the tested dtype is judged too, under the name PLAIN."""
    torch.set_num_threads(1)
    spec, wrong = catalogue.load_spec(job.spec), wrong_functions(job.spec)
    rows = []
    caught: dict[str, set[str]] = {}
    for family, judges in wanted.items():
        trial = Trial(spec, spec.case(job.case, DTYPES[job.dtype]), family)
        if full:
            verdicts, score = trial.rejects(trial.plain, JUDGES)
            rows.append((PLAIN, family, [judge for judge in JUDGES if verdicts[judge]], score, ""))
        for name in judges:
            known = caught.setdefault(name, set())
            if asked := [judge for judge in judges[name] if judge not in known]:
                verdicts, score, how = trial.fails(wrong[name], asked)
                by = [judge for judge in asked if verdicts.get(judge)]
                rows.append((name, family, by, score, how))
                known |= set(by) - ({OURS} if full else set())
    return rows


@dataclass
class Audit:
    """What is to be judged, in which cases, families and dtypes; and what was found."""

    specs: Sequence[str]
    cases: Sequence[str] = ()
    families: Sequence[str] = ()
    dtypes: Sequence[str] = DEFAULT
    full: bool = False
    wrong: list[Wrong] = field(default_factory=list)
    jobs: list[Job] = field(default_factory=list)
    plain: list[tuple[Job, str, list[str]]] = field(default_factory=list)  # family, and who rejects plain code there

    def __post_init__(self) -> None:
        for name in self.specs:
            spec = catalogue.load_spec(name)
            arguments = mutants.equivalent(spec)
            for dtype in self.dtypes:
                for wrong in wrong_functions(name).values():
                    where = f"{wrong.file}:{wrong.line}" if isinstance(wrong, mutants.Mutant) else ""
                    argument = arguments.get(wrong.name) or arguments.get(f"{wrong.name}, {dtype}", "")
                    self.wrong.append(Wrong(name, wrong.name, dtype, where, argument))
                families = tuple(family for family in spec.families if family in (self.families or spec.families))
                sizes = {case: _elements(spec, spec.case(case)) for case in spec.cases if case in (self.cases or spec.cases)}
                for before, case in enumerate(sorted(sizes, key=sizes.__getitem__)):
                    self.jobs.append(Job(name, dtype, case, families, sizes[case], before))

    def cost(self, job: Job) -> float:
        """An estimate of the work of a case for the progress bar: the first are asked of every wrong function."""
        left = 1.0 if self.full else 0.05 + 0.95 / (1 + job.before) ** 2
        return len(job.families) * (1000.0 + job.size) * left

    def run(self, workers: int, seen: Callable[[Sequence[Job], Sequence[Job]], None] = lambda done, running: None) -> None:
        """Ask everything, and tell `seen` what is done and what runs.

        The cheap cases of a spec go first, one at a time, so that the next is asked of what is left."""
        lanes: dict[str, list[Job]] = {}
        for job in sorted(self.jobs, key=lambda job: job.before, reverse=True):
            lanes.setdefault(job.subject, []).append(job)
        wrong = {subject: {w.name: w for w in self.wrong if w.subject == subject} for subject in lanes}
        running: dict[Future[Any], Job] = {}
        context = get_context("forkserver")
        context.set_forkserver_preload(["harness.audit"])
        with ProcessPoolExecutor(workers, context, machine.end_with_parent) as pool:
            try:
                while running or any(lanes.values()):
                    while len(running) < workers and any(lanes.values()):
                        job = lanes[self._next(lanes, [job.subject for job in running.values()])].pop()
                        running[pool.submit(ask, job, self._wanted(job, wrong[job.subject]), self.full)] = job
                    seen([], list(running.values()))
                    done = {future: running.pop(future) for future in wait(running, return_when=FIRST_COMPLETED).done}
                    for future, job in done.items():
                        for name, family, caught, score, how in future.result():
                            if name == PLAIN:
                                self.plain.append((job, family, caught))
                            else:
                                wrong[job.subject][name].heard(job.case, family, caught, score, how)
                    seen(list(done.values()), list(running.values()))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _next(self, lanes: Mapping[str, list[Job]], busy: Sequence[str]) -> str:
        """Whose case comes next: of those of which least is being asked, the one with most left."""
        left = {subject: sum(map(self.cost, jobs)) for subject, jobs in lanes.items() if jobs}
        return max(left, key=lambda subject: (-busy.count(subject), left[subject]))

    def _wanted(self, job: Job, wrong: Mapping[str, Wrong]) -> dict[str, dict[str, list[str]]]:
        """The judges that are still to be asked of each wrong function, for each family."""
        return {f: {name: left for name, one in wrong.items() if (left := one.left(f, self.full))} for f in job.families}

    def problems(self) -> list[str]:
        """Arguments that do not hold: of mutants that are caught, or that there are not."""
        refuted = [
            f"{w.spec}: {w.name!r} is said to be equivalent, but is caught in case {w.ever[OURS][0]}, inputs {w.ever[OURS][1]},"
            f" {w.dtype}\n  at {w.where}"
            for w in self.wrong
            if w.argument and w.status == "caught"
        ]
        gone = [
            f"{name}: there is no mutant {mutant!r}, but EQUIVALENT argues about it"
            for name in self.specs
            for mutant in mutants.equivalent(catalogue.load_spec(name))
            if mutant.removesuffix(", float32").removesuffix(", bfloat16") not in wrong_functions(name)
        ]
        return refuted + gone


def _elements(spec: Spec, case: Case) -> int:
    """How many numbers go in and come out."""
    return sum(torch.Size(tensor.shape(case.values)).numel() for tensor in [*spec.given(case), *spec.contract.outputs])


def chosen(specs: Sequence[str], settings: Mapping[str, str]) -> Audit:
    """The audit that these words ask for: all specs, cases and families, in float32 and bfloat16, if they say nothing."""
    audited = [name for name, item in catalogue.specs().items() if item.facts.get("DEFINED", True)]
    names = [catalogue.find("spec", name).name for name in specs] or audited
    if nothing := set(names) - set(audited):
        raise plan.WrongRequest(f"{', '.join(sorted(nothing))} defines nothing that could be wrong, and has laws only")
    loaded = [catalogue.load_spec(name) for name in names]
    known = WORDS | {"case": tuple(dict.fromkeys(case for spec in loaded for case in spec.cases))}
    known |= {"family": tuple(dict.fromkeys(family for spec in loaded for family in spec.families))}
    for word, value in settings.items():
        if word not in WORDS:
            raise plan.WrongRequest(f"an audit takes no {word!r}.{catalogue.suggestion(word, WORDS)}")
        for one in value.split(",") if word != "results" else ():
            if one not in known[word]:
                raise plan.WrongRequest(
                    f"no {word} named {one!r} here.{catalogue.suggestion(one, known[word], 'harness show SPEC')}"
                )
    lists = {word: settings[word].split(",") if word in settings else () for word in ("case", "family", "dtype")}
    return Audit(names, lists["case"], lists["family"], lists["dtype"] or DEFAULT, settings.get("detail") == "full")


def complaints(audit: Audit) -> str:
    """What survived, where and how it reads, what is wrong with the arguments, and what to do."""
    survived: dict[str, list[Wrong]] = {}
    for one in audit.wrong:
        if one.status == "survived":
            survived.setdefault(f"{one.spec} {one.name}", []).append(one)
    said = [_survivor(group) for group in survived.values()] + audit.problems()
    if survived:
        said.append(
            "Give the spec a case or an input family that catches it (harness/specs/), or say beside the reference why it is no"
            ' mistake: EQUIVALENT = {"function: before -> after": "why"}.\n  '
            f"Audit one spec again: harness audit {next(iter(survived.values()))[0].spec}"
        )
    return "\n\n".join(said)


def _survivor(group: Sequence[Wrong]) -> str:
    one = group[0]
    wrong = wrong_functions(one.spec)[one.name]
    lines = [f"{one.spec}: nothing catches {one.name!r}"]
    if isinstance(wrong, mutants.Mutant):
        lines += [f"  at {one.where}", f"  - {wrong.before}", f"  + {wrong.after}"]
    for at in group:
        score, case, family = at.closest
        lines.append(
            f"  {at.dtype}: the answers are those of the reference in every question, bit for bit"
            if score == 0
            else f"  {at.dtype}: comes nearest with score {score:.2g} in case {case}, inputs {family}"
        )
    return "\n".join(lines)


def tables(audit: Audit) -> "dict[str, pd.DataFrame]":
    """What is published: counts, the rules side by side, what survived and what is argued away; more if all was asked."""
    wrong = _functions(audit)
    worst = wrong.assign(rank=wrong.status.map(STATUSES.index)).sort_values("rank")
    worst = worst.drop_duplicates(["spec", "name"], keep="last").sort_index()
    counts = worst.groupby(["spec", "kind"], sort=False).agg(
        caught=("status", lambda s: int((s == "caught").sum())),
        equivalent=("status", lambda s: int((s == "equivalent").sum())),
        survived=("status", lambda s: int((s == "survived").sum())),
        all=("status", "size"),
        **{"caught by an error": ("raises", "sum")},
    )
    real = wrong[wrong.argument == ""]
    let = real.groupby(["spec", "dtype"], sort=False)[[c for c in map(str, wrong) if c.endswith(" inputs")]].sum()
    let.insert(0, "wrong functions", real.groupby(["spec", "dtype"]).size())
    found = {
        "What became of wrong functions": counts.reset_index(),
        "How many wrong functions each rule lets through": let.reset_index(),
        SURVIVED: wrong.loc[wrong.status == "survived", ["spec", "where", "name", "dtype", "closest score", "in"]],
        "What is no mistake": worst.loc[worst.argument != "", ["spec", "where", "name", "argument"]],
    }
    if audit.full:
        found[PLAIN_REJECTED] = _plain(audit)
        found |= {BY.format(what): _caught(real, what) for what in ("family", "case")}
    return found


def _functions(audit: Audit) -> "pd.DataFrame":
    """A row for each wrong function and dtype."""
    import pandas as pd

    return pd.DataFrame(
        {
            "spec": w.spec,
            "kind": "mutants" if w.where else "mistakes",
            "name": w.name,
            "dtype": w.dtype,
            "status": w.status,
            "raises": w.raises,
            "where": w.where,
            "argument": w.argument,
            "closest score": f"{w.closest[0]:.2g}" if w.closest[1] else "",
            "in": f"{w.closest[1]} {w.closest[2]}",
            "by": w.by,
            **{f"{judge}, normal inputs": judge not in w.normal for judge in JUDGES},
            **{f"{judge}, all inputs": judge not in w.ever for judge in JUDGES},
        }
        for w in audit.wrong
    )


def _caught(wrong: "pd.DataFrame", what: str) -> "pd.DataFrame":
    """By each case, or family, of a spec: how many wrong functions it catches, and how many no other does."""
    by = wrong[["spec", "name", "dtype", "by"]].explode("by").dropna(subset="by")
    by[what] = by["by"].str[("case", "family").index(what)]
    rows = by[["spec", "name", "dtype", what]].drop_duplicates()
    rows["alone"] = ~rows.duplicated(["spec", "name", "dtype"], keep=False)
    each = rows.groupby(["spec", what], sort=False).agg(caught=("name", "size"), alone=("alone", "sum")).reset_index()
    each = each.join(wrong.groupby("spec").size().rename("of"), on="spec").rename(columns={"alone": "caught by no other"})
    return each[["spec", what, "caught", "caught by no other", "of"]]


def _plain(audit: Audit) -> "pd.DataFrame":
    import pandas as pd

    rows = pd.DataFrame(
        {"spec": job.spec, "dtype": job.dtype, "questions": 1, **{judge: judge in by for judge in JUDGES}}
        for job, _, by in audit.plain
    )
    return rows.groupby(["spec", "dtype"], sort=False).sum().reset_index()


def write(audit: Audit, folder: Path) -> list[Path]:
    """Write the tables as CSV, and all of them as one page, in the place of what they say of these specs; return the files."""
    import pandas as pd

    from harness import report

    place = folder / "audit"
    place.mkdir(parents=True, exist_ok=True)
    frames = tables(audit)
    files = {title: place / f"{'-'.join(title.lower().split())}.csv" for title in (*frames, *IN_FULL)}
    found = {title: _beside(frame, files[title], {w.spec for w in audit.wrong}) for title, frame in frames.items()}
    for title in () if audit.full else IN_FULL:  # of other specs, which were asked in every case and family
        found[title] = _beside(pd.DataFrame(), files[title], {w.spec for w in audit.wrong})
    found = {title: frame for title, frame in found.items() if len(frame)}
    origin = (
        "Written by `harness audit`; do not edit. Each wrong function is asked up to the first catch, or with detail=full in all"
        f" cases and families, which gives tables of these. On {machine.describe()}."
        f"{'' if SURVIVED in found else ' Nothing survived.'}"
    )
    page = place / "README.md"
    page.write_text(f"# Audit\n\n{origin}\n\n{report.render(found, 'markdown')}\n")
    for title, file in files.items():
        if title in found:
            found[title].to_csv(file, index=False)
        else:
            file.unlink(missing_ok=True)
    return [page, *(files[title] for title in found)]


def _beside(frame: "pd.DataFrame", file: Path, audited: set[str]) -> "pd.DataFrame":
    """The rows of a table, and those that its file has of specs that were not audited now, in the order of their names."""
    import pandas as pd

    if not file.exists():
        return frame
    before = pd.read_csv(file, keep_default_na=False)
    kept = before[~before.spec.isin(audited) & before.spec.isin(list(catalogue.specs()))]
    return pd.concat([kept, frame]).sort_values("spec", kind="stable")
