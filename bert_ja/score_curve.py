"""Scores of models over the optimizer steps that they were trained for: as a Markdown table, and as one picture."""

import io
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from bert_ja import scores

DOTS = 120  # an inch
PANEL, LEGEND = (3.75, 3.0), 0.3  # inches: width and height of a panel, height of a line of the legend
COLUMNS = 3  # panels side by side
MOST_TOKENS = 4  # marks on the axis of tokens
MISSING = "-"  # in a table
UNITS = ((1e9, "B"), (1e6, "M"), (1e3, "k"))  # of tokens


@dataclass(frozen=True)
class Row:
    """The scores of one model."""

    name: str
    steps: int | None  # optimizer steps of its training, None where they are not known
    tokens: int | None  # that its training has seen
    # name -> (mean, standard deviation or None); None where the model has no such score
    scores: dict[str, tuple[float, float | None] | None] = field(default_factory=dict)

    @property
    def series(self) -> str:
        """The name without the steps at its end, which the models of one run share: "version_0 step 1,500"."""
        if self.steps is None:
            return self.name
        return re.sub(rf"[\W_]*(step)?[\W_]*(?<![\d,])({self.steps:,}|{self.steps})$", "", self.name) or self.name


def in_order(rows: Iterable[Row]) -> list[Row]:
    """By steps; models of unknown steps last, as they came."""
    rows = list(rows)
    known = [row for row in rows if row.steps is not None]
    return sorted(known, key=lambda row: row.steps) + [row for row in rows if row.steps is None]


def names_of(rows: Iterable[Row]) -> list[str]:
    """The scores that any of the rows has, each once, in the order of their first places."""
    rows = list(rows)
    names = dict.fromkeys(name for row in rows for name in row.scores)
    return [name for name in names if any(row.scores.get(name) for row in rows)]


# The table


def _score(found: tuple[float, float | None] | None) -> str:
    """(0.9, 0.002) -> "0.900 ± 0.002", (3.5, None) -> "3.500"."""
    return scores.shown(found and {"mean": found[0], "sd": found[1]})


def _count(number: int | None) -> str:
    return MISSING if number is None else f"{number:,}"


def table(rows: Iterable[Row]) -> str:
    """A Markdown table with a row a model, as `in_order` has them, and a column a score."""
    rows = in_order(rows)
    names = names_of(rows)
    lines = [["Model", "Steps", "Tokens", *names], ["---", *["---:"] * (2 + len(names))]]
    for row in rows:
        name = row.name.replace("|", r"\|")
        lines.append([name, _count(row.steps), _count(row.tokens), *(_score(row.scores.get(name)) for name in names)])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


# The picture


def short_count(number: int) -> str:
    """24,576,000 -> "24.6 M"."""
    for size, unit in UNITS:
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)


def _label(text: str) -> str:
    """A name as matplotlib shows it: a $ would begin a formula, and a _ in front hides it from the legend."""
    return text.replace("$", r"\$").lstrip("_")


def _spread(points: list, most: int) -> list:
    """At most so many of them, the first and the last among these."""
    if len(points) <= most:
        return points
    return [points[round(place * (len(points) - 1) / (most - 1))] for place in range(most)]


def _tokens_axis(axes, rows: list[Row]) -> None:
    """A second axis above the panel: the tokens that the models of one run have seen."""
    above = axes.secondary_xaxis("top")
    marked = _spread(rows, MOST_TOKENS)
    above.set_xticks([row.steps for row in marked], [short_count(row.tokens) for row in marked], fontsize=7)
    above.set_xlabel("tokens seen", fontsize=8)


def _panel(axes, rows: list[Row], name: str, colours: dict[str, str]) -> None:
    """One score, rows in order: a line a run, with standard deviations, and a level for a model of unknown steps."""
    rows = [row for row in rows if row.scores.get(name)]
    trained = [row for row in rows if row.steps is not None]
    curves: dict[str, list[Row]] = {}
    for row in trained:
        curves.setdefault(row.series, []).append(row)
    for series, members in curves.items():
        means, deviations = zip(*(row.scores[name] for row in members), strict=True)
        spread = None if set(deviations) == {None} else [deviation or 0.0 for deviation in deviations]
        style = {"color": colours[series], "label": _label(series), "marker": "o", "ms": 3.5, "lw": 1.0}
        axes.errorbar([row.steps for row in members], means, spread, capsize=2.5, **style)
    for row in rows[len(trained) :]:
        style = {"color": colours[row.series], "label": _label(row.series), "linestyle": "--", "linewidth": 1.5}
        axes.axhline(row.scores[name][0], **style)
    axes.set_title(_label(name), fontsize=9)
    axes.set_xlabel("optimizer steps", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.3)
    if len(curves) == 1 and all(row.tokens is not None for row in trained):
        _tokens_axis(axes, trained)


def draw(rows: Iterable[Row]) -> bytes:
    """The scores as a PNG, a panel a score, over optimizer steps and, of one run, tokens. Equal rows, equal bytes."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = in_order(rows)
    names, series = names_of(rows), list(dict.fromkeys(row.series for row in rows))
    columns = min(COLUMNS, len(names))
    lines = -(-len(names) // columns)
    legend_lines = -(-len(series) // columns)
    size = (PANEL[0] * columns, PANEL[1] * lines + LEGEND * legend_lines)
    with matplotlib.rc_context(matplotlib.rcParamsDefault):  # whatever a matplotlibrc of this machine says
        figure = Figure(figsize=size, dpi=DOTS, layout="constrained")
        FigureCanvasAgg(figure)
        colours = {name: f"C{place % 10}" for place, name in enumerate(series)}
        handles, first = {}, None
        for place, name in enumerate(names, start=1):
            axes = first = figure.add_subplot(lines, columns, place, sharex=first)
            _panel(axes, rows, name, colours)
            handles |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
        shown = [label for label in map(_label, series) if label in handles]
        style = {"loc": "outside lower center", "ncols": columns, "fontsize": 8}
        figure.legend([handles[label] for label in shown], shown, **style)
        picture = io.BytesIO()
        figure.savefig(picture, format="png", metadata={"Software": None})
    return picture.getvalue()
