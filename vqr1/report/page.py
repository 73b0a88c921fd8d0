"""One HTML file on runs: everything in it, nothing fetched, readable without a network and on paper.

The file is a template of Jinja2, which escapes every text that is put in: answers, names of runs and of pictures are
others' words. A content security policy lets only the page's own script and style run, by their hashes, and fetch
nothing at all. Curves are drawn by uPlot from one block of JSON, whose numbers are packed as float32; small drawings
are SVG made here.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from array import array
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup

from vqr1.evaluation.paper import REMARKS, TABLE2, published
from vqr1.report.arms import Arm, arms_of, short_names, spread_out
from vqr1.report.figures import TEST, Figure, ceilings, figures, final, final_sets, was_shown
from vqr1.report.probes import Pictures, probes, samples
from vqr1.report.remarks import remarks
from vqr1.report.runs import Run, by_experiment, number
from vqr1.report.study import text
from vqr1.report.study_tables import SHADES, study_tables
from vqr1.report.style import DARK, DASHES, GROUND, LIGHT, SMOOTH, STEP, look

LOOKS = len(LIGHT) * len(DASHES)  # of style.look that are told apart
STEPS = 8  # columns of a figure's table
RAW = 3  # curves in a figure whose single steps are drawn too
PLOT = 200  # width of the drawing in a row, px
ABSENT, UNDEFINED = math.inf, math.nan  # in the packed numbers: not measured there, and measured without a value


def page(runs: Sequence[Run]) -> str:
    """The page on ``runs`` as text."""
    drawn: list[dict[str, Any]] = []
    pictures = Pictures()
    experiments = [
        _experiment(f"e{i}", name, members, drawn, pictures)
        for i, (name, members) in enumerate(by_experiment(runs).items())
    ]
    style = Markup(  # noqa: S704 - the package's own files
        f"{_file('uPlot.min.css')}\n{_file('page.css')}\n{_colours()}"
    )
    script = Markup(f"{_file('uPlot.iife.min.js')}\n{_file('page.js')}")  # noqa: S704 - likewise
    return _template().render(
        policy=f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; img-src data:; "
        "base-uri 'none'; form-action 'none'",
        style=style,
        script=script,
        data=Markup(as_json({"figures": drawn, "looks": _looks(), "axis": STEP})),  # noqa: S704 - without any <
        experiments=experiments,
        runs=runs,
        version=version("vqr1"),
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        plot=PLOT,
        smooth=SMOOTH,
        dashes=[" ".join(f"{2 * width:g}" for width in look(i).dashes) for i in range(LOOKS)],
    )


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(fixed=fixed, duration=duration, words=text)
    return environment.from_string(_file("page.html"))


def as_json(content: Any) -> str:
    """JSON that can stand in a script element: no ``<`` in it, so that no text in it ends or opens one."""
    return json.dumps(content, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def packed(values: Iterable[float]) -> str:
    """Little-endian float32 as base64."""
    numbers = array("f", values)
    if numbers.itemsize != 4:  # pragma: no cover - every machine that torch runs on
        raise AssertionError(numbers.itemsize)
    return base64.b64encode(numbers.tobytes()).decode()


def fixed(value: float | None, digits: int = 3) -> str:
    """A figure for a table; what has no value says so."""
    if value is None:
        return "undefined"
    if value and (abs(value) < 10**-digits or abs(value) >= 1e5):
        return f"{value:.{digits - 1}e}"
    return f"{value:.{digits}f}"


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def _experiment(
    key: str, name: str, runs: list[Run], drawn: list[dict[str, Any]], pictures: Pictures
) -> dict[str, Any]:
    arms = arms_of(runs)
    places = _places(arms)
    first, others = figures(arms)
    settings = list(arms[0].values)
    return {
        "key": key,
        "name": name,
        "runs": runs,
        "arms": [
            {"name": arm.name, "look": places[i], "values": arm.values, "runs": [_told(run) for run in arm.runs]}
            for i, arm in enumerate(arms)
        ],
        "settings": short_names(settings),
        "common": {k: v for k, v in sorted(runs[0].settings.items()) if all(r.settings.get(k) == v for r in runs)},
        "versions": _versions(runs),
        "warnings": [(run.name, found) for run in runs if (found := remarks(run))],
        "twins": _twins(arms),
        "figures": [_drawn(key, figure, places, drawn) for figure in first],
        "several": any(len(arm.runs) > 1 for arm in arms),
        "intervals": any(one.interval for figure in first for _, _, one in figure.series),
        "pale": len(arms) <= RAW and any(len(arm.runs) == 1 for arm in arms),
        "others": [_drawn(key, figure, places, drawn) for figure in others],
        "finals": _finals(arms, places),
        "published": _published(arms),
        "tables": study_tables(runs),
        "probes": probes(arms, pictures),
        "samples": samples(arms, pictures),
        "drawn": not all(map(was_shown, runs)),
        "compared": any(run.settings.get("objective") in ("comparison", "depict") for run in runs),
    }


def _told(run: Run) -> dict[str, Any]:
    """A row of the table of runs. Time is summed over the steps in the folder, so that resumed runs count whole."""
    spent = {
        name: sum(number(row.get(f"speed/{name}")) or 0.0 for row in run.timings)
        for name in ("step_seconds", "evaluation_seconds")
    }
    speeds = [value for row in run.timings if (value := number(row.get("speed/answers_per_second"))) is not None]
    return {
        "run": run,
        "training": spent["step_seconds"],
        "evaluating": spent["evaluation_seconds"],
        "speed": sum(speeds) / len(speeds) if speeds else None,
        "best": (run.summary or {}).get("best_step"),
    }


def _places(arms: Sequence[Arm]) -> list[int]:
    """The look of each arm: where two settings are swept, one is the colour and the other the kind of line.

    Where there are more arms than looks, it is that of a value of one setting.
    """
    seen = {name: list(dict.fromkeys(text(arm.values[name]) for arm in arms)) for name in arms[0].values}
    at = [{name: values.index(text(arm.values[name])) for name, values in seen.items()} for arm in arms]
    if len(seen) == 2:
        for colour, dashes in (seen, reversed(seen)):
            if len(seen[colour]) <= len(LIGHT) and len(seen[dashes]) <= len(DASHES):
                return [place[colour] + len(LIGHT) * place[dashes] for place in at]
    if len(arms) <= LOOKS:
        return list(range(len(arms)))
    few = [name for name, values in seen.items() if len(values) <= LOOKS]
    by = max(few, key=lambda name: len(seen[name]), default=None)
    return [i % LOOKS if by is None else place[by] for i, place in enumerate(at)]


def _twins(arms: Sequence[Arm]) -> list[str]:
    """The arms that hold a seed more than once, so that their spread is not one over seeds."""
    return [arm.name for arm in arms if len({text(run.seed) for run in arm.runs}) < len(arm.runs)]


def _versions(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """What the runs were made with: each package's versions, mostly one."""
    names = dict.fromkeys(name for run in runs for name in run.versions if name != "format")
    found = [
        (name, list(dict.fromkeys(text(run.versions.get(name)) for run in runs if run.versions.get(name) is not None)))
        for name in names
    ]
    return [(name, values) for name, values in found if values]


def _drawn(key: str, figure: Figure, places: Sequence[int], drawn: list[dict[str, Any]]) -> dict[str, Any]:
    """What the template says of a figure; its numbers go to ``drawn``."""
    steps = sorted({step for _, _, one in figure.series for step in one.steps})
    shown = spread_out(steps, STEPS)
    series, rows = [], []
    for i, name, one in figure.series:
        place = i % LOOKS if figure.sets else places[i]
        columns = {"mean": one.mean, **({"low": one.low, "high": one.high} if one.runs > 1 or one.interval else {})}
        if one.raw and len(figure.series) <= RAW:
            columns["raw"] = one.raw
        at = {column: dict(zip(one.steps, values, strict=True)) for column, values in columns.items()}
        series.append(
            {
                "name": name,
                "look": place,
                "arm": None if figure.sets else i,
                **{
                    column: packed(
                        ABSENT if step not in values else UNDEFINED if (v := values[step]) is None else v
                        for step in steps
                    )
                    for column, values in at.items()
                },
            }
        )
        rows.append(
            (name, place, [{column: values[step] for column, values in at.items() if step in values} for step in shown])
        )
    drawn.append(
        {
            "steps": packed(map(float, steps)),
            "series": series,
            "points": figure.evaluated or len(steps) < 3,
            "lines": [{"name": line.name, "value": line.value} for line in figure.lines],
        }
    )
    return {
        "id": f"{key}f{len(drawn) - 1}",
        "index": len(drawn) - 1,
        "title": figure.title,
        "note": figure.axis,
        "legend": [(name, look) for name, look, _ in rows] if figure.sets else [],
        "steps": shown,
        "all": len(steps),
        "rows": rows,
        "lines": figure.lines,
    }


def _finals(arms: Sequence[Arm], places: Sequence[int]) -> dict[str, Any]:
    """A table of each set: a row per arm, with its figures and their places on a scale that the sets share."""
    runs = [run for arm in arms for run in arm.runs]
    sets = [_final(arms, places, name) for name in final_sets(runs)]
    rows = [row for each in sets for row in each["rows"]]
    shown = [row[key] for row in rows for key in ("srcc", "low", "high", "start") if row[key] is not None]
    shown += [line.value for each in sets for line in each["ceilings"]]
    low, high = (min(shown), max(shown)) if shown else (0.0, 1.0)
    pad = 0.03 * (high - low or 1.0)
    low, high = max(-1.0, low - pad), min(1.0, high + pad)

    def place(value: float | None) -> float | None:
        return None if value is None else round(6 + (PLOT - 12) * (value - low) / (high - low), 1)

    for row in rows:
        row["at"] = {key: place(row[key]) for key in ("srcc", "low", "high", "start")}
        row["dots"] = [place(value) for value in row["values"]] if row["runs"] > 1 else []
    for each in sets:
        each["lines"] = [(line.name, line.value, place(line.value)) for line in each["ceilings"]]
    more = [key for key in ("score_std", "unreadable") if any(row[key] is not None for row in rows)]
    return {"sets": sets, "low": low, "high": high, "more": more, "several": any(row["runs"] > 1 for row in rows)}


def _final(arms: Sequence[Arm], places: Sequence[int], name: str) -> dict[str, Any]:
    rows = []
    for i, arm in enumerate(arms):
        counted = [run for run in arm.runs if run.summary] or list(arm.runs)  # a last evaluation is no final one
        ends = [end[name] for run in counted if name in (end := final(run))]
        starts = [start[name] for run in counted if name in (start := final(run, "start"))]
        if not ends:
            continue
        values = _known(ends, "srcc")  # intervals: low and high in folders of vqr1 0.1.0
        several = len(ends) > 1
        rows.append(
            {
                "name": arm.name + ("" if counted[0].summary else ", not finished"),
                "look": places[i],
                "runs": len(ends),
                "values": values,
                "srcc": _mean(values),
                "low": min(values, default=None) if several else _mean(_known(ends, "srcc_low") or _known(ends, "low")),
                "high": max(values, default=None)
                if several
                else _mean(_known(ends, "srcc_high") or _known(ends, "high")),
                "start": _mean(_known(starts, "srcc")),
                **{figure: _mean(_known(ends, figure)) for figure in ("plcc", "score_std", "unreadable")},
            }
        )
    runs = [run for arm in arms for run in arm.runs]
    counts = {end[name].get("n") for run in runs if name in (end := final(run))} - {None}
    return {
        "name": name,
        "test": name.endswith(TEST),
        "rows": rows,
        "pictures": " or ".join(f"{n:.0f}" for n in sorted(n for n in counts if n is not None)),
        "ceilings": ceilings(runs, name),
    }


def _published(arms: Sequence[Arm]) -> dict[str, Any] | None:
    """The paper's Table 2 on the sets that the runs evaluated too, beside theirs; None where there is none."""
    names = {name: name.removesuffix(TEST) for arm in arms for run in arm.runs for name in final(run)}
    shared = {
        name: TABLE2[base]
        for name, base in names.items()
        if base in TABLE2 and (name.endswith(TEST) or base + TEST not in names)
    }
    if not shared:
        return None
    paper = [(row.method, row.trained_on, [row.cells[names[name]] for name in shared]) for row in published("2")]
    ours = []
    for arm in arms:
        ends = [final(run) for run in [run for run in arm.runs if run.summary] or arm.runs]
        cells = [
            tuple(_mean(_known([end[name] for end in ends if name in end], figure)) for figure in ("srcc", "plcc"))
            for name in shared
        ]
        trained_on = arm.runs[0].settings.get("data.train")
        trained = " + ".join(trained_on) if isinstance(trained_on, (list, tuple)) else text(trained_on)
        ours.append((arm.name, trained, cells))
    return {
        "sets": list(shared.values()),
        "paper": paper,
        "ours": ours,
        "remarks": [REMARKS[names[name]] for name in shared if names[name] in REMARKS],
    }


def _known(rows: Iterable[dict[str, float | None]], figure: str) -> list[float]:
    return [value for row in rows if (value := row.get(figure)) is not None]


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _looks() -> list[dict[str, Any]]:
    return [
        {"light": look(i).colour, "dark": look(i, dark=True).colour, "dash": list(look(i).dashes)} for i in range(LOOKS)
    ]


def _colours() -> str:
    """The classes that differ by colour alone: c0, c1, ... of series, h0, h1, ... of shaded cells."""

    def classes(dark: bool) -> str:
        ground, deep = GROUND[dark], (DARK if dark else LIGHT)[0]
        series = [f".c{i}{{--c:{look(i, dark).colour}}}" for i in range(LOOKS)]
        shades = [f".h{i}{{background:{_mixed(ground, deep, 0.04 + 0.4 * i / (SHADES - 1))}}}" for i in range(SHADES)]
        return "".join((*series, *shades))

    return f"{classes(False)}\n@media screen and (prefers-color-scheme:dark){{{classes(True)}}}"


def _mixed(first: str, second: str, share: float) -> str:
    """A colour between two: ``share`` of the second."""
    pairs = [(int(first[i : i + 2], 16), int(second[i : i + 2], 16)) for i in (1, 3, 5)]
    return "#" + "".join(f"{round((1 - share) * a + share * b):02x}" for a, b in pairs)


def _hash(content: str) -> str:
    """A source of a content security policy: the element with exactly this text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


def _file(name: str) -> str:
    return files("vqr1.report").joinpath("page_files", name).read_text(encoding="utf-8")
