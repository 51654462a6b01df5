"""The losses of a run over its optimizer steps: read from its TensorBoard events, thinned for a record, and drawn."""

import io
import math
from collections.abc import Iterable
from pathlib import Path

SERIES = ("train_mlm_loss", "val_mlm_loss", "train_nsp_loss", "val_nsp_loss")  # tags of events, names in a record
MOST_EVENTS = 10_000  # of a series that are held; of more, TensorBoard draws so many by a fixed seed
MOST_POINTS = 300  # of a series in a record
SIZE, DOTS = (7.5, 4.5), 120  # inches, dots an inch
STYLES = {"train": {"color": "tab:blue", "linewidth": 1.0}, "val": {"color": "tab:orange", "marker": "o", "ms": 3.5}}
NAMES = {"train": "training", "val": "validation"}


def thinned(points: list[tuple[int, float]], most: int = MOST_POINTS) -> list[list]:
    """At most so many [step, value] pairs: means over neighbours, each at the last step of its own."""
    if not points:
        return []
    size = -(-len(points) // most)
    parts = [points[start : start + size] for start in range(0, len(points), size)]
    return [[part[-1][0], float(f"{sum(value for _, value in part) / len(part):.6g}")] for part in parts]


def read(run: Path, steps: int) -> dict[str, list[list]] | None:
    """[step, loss] pairs of each series of a run up to `steps` optimizer steps; None where it has no events.

    A run that was gone on with has several files of events; of steps that it took twice, the later ones count.
    """
    if not any(run.glob("events.out.tfevents.*")):
        return None
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run), size_guidance={"scalars": MOST_EVENTS}).Reload()
    found = {}
    for name in set(SERIES) & set(events.Tags()["scalars"]):
        last = {event.step + 1: event.value for event in events.Scalars(name)}  # logged from 0, counted from 1
        found[name] = thinned(
            [(at, value) for at, value in sorted(last.items()) if at <= steps and math.isfinite(value)]
        )
    return {name: found[name] for name in SERIES if found.get(name)} or None


def _panel(axes, curve: dict[str, list[list]], task: str, title: str, lines: Iterable[tuple[float, str]]) -> None:
    for part, style in STYLES.items():
        if points := curve.get(f"{part}_{task}_loss"):
            axes.plot(*zip(*points, strict=True), label=NAMES[part], **style)
    for height, label in lines:
        axes.axhline(height, color="tab:green", linewidth=1.5, linestyle="--", label=label)
    axes.set_title(f"{title} loss (nats)", fontsize=10)
    axes.set_xlabel("optimizer steps")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


def draw(curve: dict[str, list[list]], entropy: float | None = None, second: str = "NSP") -> bytes:
    """The curve as a PNG, a panel a task; the unigram entropy is a line to compare with. Equal curves, equal bytes.

    `second` is the name of the task beside MLM.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    tasks = [task for task in ("mlm", "nsp") if any(f"_{task}_" in name for name in curve)]
    with matplotlib.rc_context(matplotlib.rcParamsDefault):  # whatever a matplotlibrc of this machine says
        figure = Figure(figsize=SIZE, dpi=DOTS, layout="constrained")
        FigureCanvasAgg(figure)
        for place, task in enumerate(tasks, start=1):
            lines = [(entropy, "unigram entropy")] if task == "mlm" and entropy is not None else []
            title = "MLM" if task == "mlm" else second
            _panel(figure.add_subplot(1, len(tasks), place), curve, task, title, lines)
        picture = io.BytesIO()
        figure.savefig(picture, format="png", metadata={"Software": None})
    return picture.getvalue()
