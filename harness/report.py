"""Records become tables, tables become text and files; loads no code under test."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from harness.cell import CRASHED, OK, OUT_OF_MEMORY, TIMED_OUT, UNSUPPORTED, WRONG, Cell, Record

if TYPE_CHECKING:
    import pandas as pd

FORMATS = ("text", "markdown", "csv", "latex", "html", "parquet")
FILES = ("parquet",)  # formats that are no text, and need out=FILE
# Columns that name whom a row is about, and those that say what was judged: for people the latter make a table of their own.
SUBJECTS = ("implementation", "model")
PROVENANCE = ("code", "definition", "versions")
JUDGED = "What was judged (digests of code and definition)"
DIGITS = 8


def tables(suite: ModuleType, records: Sequence[Record]) -> "Mapping[str, pd.DataFrame]":
    """The tables of a suite; records of nothing make no table."""
    if not records:
        raise ValueError("no records, so no table")
    return with_provenance(suite.table(records), records)


def with_provenance(frames: "Mapping[str, pd.DataFrame]", records: Sequence[Record]) -> "Mapping[str, pd.DataFrame]":
    """Beside each row of each table, what was judged: digests of code and definition, and the versions below them."""
    of: dict[str, dict[str, dict[str, None]]] = {}
    for record in records:
        said = of.setdefault(record.cell.subject, {name: {} for name in PROVENANCE})
        said["code"][record.digests.get("implementation", "?")[:DIGITS]] = None
        said["definition"][record.digests.get("spec", "?")[:DIGITS]] = None
        said["versions"][record.libraries] = None
    return {title: _beside(_with_whole_numbers(frame), of) for title, frame in frames.items()}


def _beside(frame: "pd.DataFrame", of: Mapping[str, Mapping[str, Iterable[str]]]) -> "pd.DataFrame":
    """A table with columns of what is known of the subject of each row, where its rows have one."""
    column = next((column for column in SUBJECTS if column in frame.columns), None)
    if column is None:
        return frame
    said = [of.get(subject, {}) for subject in frame[column]]
    return frame.assign(**{name: [" and ".join(one.get(name, ())) for one in said] for name in PROVENANCE})


def render(frames: "Mapping[str, pd.DataFrame]", form: str) -> str:
    """Tables with their titles in one of the formats; CSV holds one table, so that of several each row says which it is of.

    Formats for people say what was judged once, in a last table; a screen does without.
    """
    if form == "csv" and frames:
        return _joined(frames).to_csv(index=False).rstrip()
    plain = {title: frame[[name for name in frame.columns if name not in PROVENANCE]] for title, frame in frames.items()}
    shown = plain if form == "text" else plain | _judged(frames)
    return "\n\n".join(part for title, frame in shown.items() for part in _rendered(title, frame, form))


def _judged(frames: "Mapping[str, pd.DataFrame]") -> "dict[str, pd.DataFrame]":
    """Code, definition and versions of everyone that some table has a row of."""
    import pandas as pd

    known = [frame for frame in frames.values() if set(PROVENANCE) <= set(frame.columns)]
    named = [frame.rename(columns=dict.fromkeys(SUBJECTS, SUBJECTS[0]))[[SUBJECTS[0], *PROVENANCE]] for frame in known]
    return {JUDGED: pd.concat(named).drop_duplicates().sort_values(SUBJECTS[0])} if named else {}


def save(frames: "Mapping[str, pd.DataFrame]", form: str, file: Path) -> list[Path]:
    """Write tables in one of the formats to a file; as Parquet, which holds one table, each to a file of its own."""
    if form not in FILES:
        file.write_text(render(frames, form) + "\n")
        return [file]
    files = []
    for title, frame in frames.items():
        own = file if len(frames) == 1 else file.with_name(f"{file.stem}.{slug(title.partition('(')[0])}{file.suffix}")
        _of_one_type_a_column(frame).to_parquet(own, index=False)
        files.append(own)
    return files


def summary(records: Sequence[Record]) -> str:
    """How many cells ended how, in one line."""
    counts = sorted(Counter(record.outcome for record in records).items())
    return f"{len(records)} cells: " + ", ".join(f"{count} {outcome.replace('_', ' ')}" for outcome, count in counts)


def legend(records: Sequence[Record]) -> str:
    """What the grades mean, where one of them is B."""
    if not any(record.values.get("grade") == "B" for record in records):
        return ""
    return "grade A: within the rounding budget; B: beyond it, but within that of code whose intermediates have the tested dtype"


def failures(records: Sequence[Record], again: str = "harness again {key}") -> str:
    """One message for each way in which an implementation fails, about its first such cell, and where else it fails so."""
    failing: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        if record.outcome not in (OK, UNSUPPORTED):
            failing.setdefault((record.cell.subject, record.outcome), []).append(record)
    asked = Counter(record.cell.subject for record in records)
    return "\n\n".join(
        _failure(group, again, asked[subject]) + (_narrower(subject, records) if outcome == CRASHED else "")
        for (subject, outcome), group in failing.items()
    )


def _narrower(subject: str, records: Sequence[Record]) -> str:
    """Advice to whom every cell of some dtype crashed, and none of them in another: its file may not claim the former."""
    outcomes: dict[str, set[str]] = {}
    for record in records:
        if record.cell.subject == subject:
            outcomes.setdefault(record.cell.dtype, set()).add(record.outcome)
    always = [dtype for dtype, found in outcomes.items() if CRASHED in found <= {CRASHED, UNSUPPORTED}]
    never = [dtype for dtype, found in outcomes.items() if CRASHED not in found != {UNSUPPORTED}]
    if not always or not never:
        return ""
    claim = ", ".join(f'"{dtype}"' for dtype in never) + "," * (len(never) == 1)
    return f"\n  {' and '.join(always)}: every cell; if it is made for {' and '.join(never)} alone, say so: dtypes = ({claim})"


def refusals(records: Sequence[Record]) -> str:
    """Why implementations are unsupported everywhere: one line each."""
    reasons: dict[str, set[str]] = {}
    for record in records:
        reasons.setdefault(record.cell.subject, set()).add(record.note if record.outcome == UNSUPPORTED else "")
    return "\n".join(
        f"{subject} is unsupported: {'; '.join(once(sorted(said)))}" for subject, said in reasons.items() if "" not in said
    )


def once(notes: Iterable[str]) -> list[str]:
    """Notes, each of those that differ by numbers alone said once: the last."""
    return list({re.sub(r"(?<!\w)-?\d[\d,.]*(?!\w)", "", note): note for note in notes}.values())


def message(record: Record, again: str = "harness again {key}") -> str:
    """What is to be said of one record: subject, what is wrong, facts, next step."""
    cell = record.cell
    question = cell.settings.get("law")
    ends = {OUT_OF_MEMORY: "ran out of memory", TIMED_OUT: "timed out", CRASHED: "crashed"}
    what = ends.get(record.outcome, f"is {record.outcome}")
    what = f"breaks the law {question}" if question and record.outcome == WRONG else what
    family = f", inputs {cell.settings['family']}" if cell.settings.get("family", "normal") != "normal" else ""
    where = f" in case {cell.case}" if cell.case else f" in suite {cell.suite}"
    facts = [record.note if record.note.startswith("  ") else f"  {record.note}"] if record.note else []
    dtype = f", {cell.dtype}" if cell.dtype else ""
    lines = [f"{cell.subject} {what}{where}{dtype}{family}", *facts]
    if record.outcome not in (OK, UNSUPPORTED):
        lines.append(f"  again: {again.format(key=cell.key, cell=cell, question=_question(cell))}")
    return "\n".join(lines)


def _question(cell: Cell) -> str:
    """The settings of a cell that is asked alone, as words of the command line."""
    words = {key: value for key, value in cell.settings.items() if key in ("family", "law")}
    words |= ({"variant": cell.variant} if cell.variant else {}) | ({"seed": cell.seed} if cell.seed else {})
    return " ".join(f"{key}={value}" for key, value in words.items())


def _failure(group: Sequence[Record], again: str, asked: int) -> str:
    first = group[0]
    said = message(first, again)
    if len(group) == 1:
        return said
    if len(group) == asked:
        return f"{said}\n  so do all the others of its {asked:,} cells"
    cases = ", ".join(dict.fromkeys(record.cell.case for record in group))
    dtypes = ", ".join(dict.fromkeys(record.cell.dtype for record in group))
    return f"{said}\n  {len(group) - 1} more of its cells fail; cases: {cases}; dtypes: {dtypes}"


def _rendered(title: str, frame: "pd.DataFrame", form: str) -> list[str]:
    """A table with its title, as parts that an empty line separates."""
    frame = _merged(frame)
    match form:
        case "text":
            return [title, _tabulated(frame, "simple")]
        case "markdown":
            return [f"## {title}", _tabulated(frame, "pipe")]
        case "latex":
            from tabulate import LATEX_ESCAPE_RULES

            caption = "".join(LATEX_ESCAPE_RULES.get(letter, letter) for letter in title)
            return [f"\\begin{{table}}\n\\caption{{{caption}}}\n{_tabulated(frame, 'latex_booktabs')}\n\\end{{table}}"]
        case "html":
            return [f"<h2>{title}</h2>", _tabulated(frame, "html")]
    raise ValueError(f"no format {form!r}; known: {', '.join(FORMATS)}")


def _joined(frames: "Mapping[str, pd.DataFrame]") -> "pd.DataFrame":
    """All tables as one, with the columns of any."""
    import pandas as pd

    if len(frames) == 1:
        return next(iter(frames.values()))
    return pd.concat({title: frame.astype(object) for title, frame in frames.items()}, names=["table"]).reset_index(level="table")


def _tabulated(frame: "pd.DataFrame", style: str) -> str:
    from tabulate import tabulate

    return tabulate(frame.values.tolist(), headers=list(frame.columns), tablefmt=style, disable_numparse=True)


def _with_whole_numbers(frame: "pd.DataFrame") -> "pd.DataFrame":
    """Counts that pandas made floats, since a row has none, are counts again."""
    import pandas as pd

    gaps = [name for name in frame.columns if frame[name].dtype.kind == "f" and frame[name].isna().any()]
    whole = [name for name in gaps if (frame[name].dropna() % 1 == 0).all()]
    return frame.assign(**{name: frame[name].astype(pd.Int64Dtype()) for name in whole})


def _of_one_type_a_column(frame: "pd.DataFrame") -> "pd.DataFrame":
    """A column of numbers and words is one of words; what is not there stays so."""
    frame = frame.convert_dtypes()
    for name in [name for name in frame.columns if frame[name].dtype == object]:
        frame[name] = [None if value is None else str(value) for value in frame[name]]
    return frame


def _merged(frame: "pd.DataFrame") -> "pd.DataFrame":
    """For reading: a column `x ±` goes into the column `x`, and what is not there is a dash."""
    import pandas as pd

    frame = frame.astype(object)
    for name in [name for name in frame.columns if f"{name} ±" in frame.columns]:
        pairs = zip(frame[name], frame.pop(f"{name} ±"), strict=True)
        frame[name] = [value if pd.isna(value) else f"{value:.2f} ± {width:.2f}" for value, width in pairs]
    return frame.where(frame.notna(), "-")


def slug(title: str) -> str:
    """A title as part of a file's name."""
    return "-".join("".join(c if c.isalnum() else " " for c in title.lower()).split())
