"""The newest record of each device as a block of docs/benchmarks.md, and as a chart."""

from __future__ import annotations

import functools
import math
import statistics
import textwrap
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from bench import goals
from bench.machine import ROOT
from bench.record import RESULTS, Data, Record, fastest_side, newest_records
from bench.sides import OURS
from bench.suite import CONVOLUTIONS, DIRECTIONS, MEMORY
from gpuconv.system import files

BEGIN, END = "<!-- bench report: begin -->", "<!-- bench report: end -->"
NOT_MEASURED = "**GPU: not yet measured.** No record of a GPU is in the repository."
WHOLE = ("step", "recipe")  # whole training steps and runs: each has a row of its own
OPS = (*DIRECTIONS, *MEMORY, *WHOLE)


def write(page: Path = ROOT / "docs/benchmarks.md", results: Path = RESULTS) -> list[Path]:
    """Rewrite the page's block, and the charts beside the page; returns what was written.

    Raises ValueError if the page has no such block or several; then nothing is written.
    """
    text = page.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"{page.name} must hold the lines {BEGIN} and {END} once, around what the report rewrites")
    records = newest_records(results)
    charts = {record.data["hardware"]: page.parent / f"benchmark-{record.data['hardware']}.png" for record in records}
    for record in records:
        chart(record, charts[record.data["hardware"]])
    blocks = [] if any(record.data["kind"] == "cuda" for record in records) else [NOT_MEASURED]
    for record in records:
        picture = charts[record.data["hardware"]].name
        blocks += [block(record), f"![Our time over PyTorch's, a dot for each shape]({picture})"]
    before, after = text[: text.index(BEGIN)], text[text.index(END) :]
    files.write(page, "\n\n".join([before + BEGIN, *blocks, after]).encode())
    return [page, *charts.values()]


# --- the block ---------------------------------------------------------------------------------


def block(record: Record) -> str:
    """A record as Markdown: its origin, a row for each op and dtype and for each whole step, what was not timed, and
    the goals if there are any."""
    data = record.data
    state = " with uncommitted changes" if data["dirty"] else ""
    threads = f", {data['threads']} threads" if "threads" in data else ""
    kernels = f", OpenBLAS with kernels for {data['blas']}" if data.get("blas") else ""
    torch = data["versions"].get("torch")
    peer = f"PyTorch {torch}, the fastest of its variants" if torch else "no PyTorch was installed"
    busy = (data["load"] or 0) > data.get("threads", 1)  # more than the run itself uses
    load = f" Other processes were running: load average {data['load']:.1f}." if busy else ""
    parts = [
        f"**{data['device']}{threads}{kernels}**, {data['date'][:10]}, commit {data['commit']}{state}. Ratio: our time "
        f"over that of the peer ({peer}), so under 1 is faster; medians of interleaved samples. Share of floor: the "
        f"time that the device's own copy and matrix product would need, over ours. {_ceilings(data)}{load}",
        _table(data["entries"]),
        _untimed(data),
        _goals(data),
    ]
    return "\n\n".join(_wrapped(part) for part in parts if part)


def _wrapped(text: str) -> str:
    """Sentences in lines of at most 120 characters; rows of tables and lists stay as they are."""
    fill = functools.partial(textwrap.fill, width=120, break_long_words=False, break_on_hyphens=False)
    return "\n".join(line if line.startswith(("|", "- ")) else fill(line) for line in text.split("\n"))


def _ceilings(data: Data) -> str:
    peaks = data["peaks"]
    if not peaks:
        return ""
    rates = ", ".join(f"{name} {rate / 1e12:.3g} TFLOP/s" for name, rate in sorted(peaks["matrix"].items()))
    return f"Measured ceilings: copy {peaks['copy'] / 1e9:.3g} GB/s, {rates}."


def _table(entries: list[Data]) -> str:
    lines = ["| op | dtype | shapes | ratio, median (range) | share of floor, median |", "|---|---|---|---|---|"]
    for op in (*DIRECTIONS, *MEMORY):
        for dtype in sorted({entry["dtype"] for entry in entries if entry["op"] == op}):
            listed = [e for e in entries if (e["op"], e["dtype"]) == (op, dtype) and fastest_side(e, OURS)]
            ratios = sorted(filter(None, map(goals.ratio, listed)))
            if listed:
                shares = statistics.median([share(entry) for entry in listed])
                lines.append(f"| {op} | {dtype} | {len(listed)} | {_range(ratios)} | {shares:.0%} |")
    for entry in entries:
        if entry["op"] in WHOLE and (mine := fastest_side(entry, OURS)):
            ratio = goals.ratio(entry)
            text = f"{ratio:.2f}" if ratio else "no peer"
            name = f"{entry['op']} {entry['shape']}, {1e3 * mine['median']:.3g} ms"
            lines.append(f"| {name} | {entry['dtype']} | 1 | {text} | {share(entry):.0%} |")
    return "\n".join(lines) if len(lines) > 2 else ""


def _untimed(data: Data) -> str:
    """Which sides were missing, left out, refused or failed, and how many entries were not reached."""
    sides = Counter(
        f'"{side["name"]}" {side["status"]}'
        for entry in data["entries"]
        for side in entry["sides"]
        if side["status"] != "timed"
    )
    listed = ", ".join(f"{what} ({count})" for what, count in sorted(sides.items()))
    text = (
        [f"Sides that were not timed, and in how many of {len(data['entries'])} entries: {listed}."] if listed else []
    )
    if data["not reached"]:
        text.append(f"Not reached when the run was stopped or its time was up: {len(data['not reached'])} entries.")
    return " ".join(text)


def _range(ratios: list[float]) -> str:
    if not ratios:
        return "no peer"
    return f"{statistics.median(ratios):.2f}" + (f" ({ratios[0]:.2f} to {ratios[-1]:.2f})" if len(ratios) > 1 else "")


def share(entry: Data) -> float:
    """The share of the floor: 1 is as fast as the device allows."""
    mine = fastest_side(entry, OURS)
    return entry["floor"] / mine["median"] if mine else math.nan


def _goals(data: Data) -> str:
    found = {goal["name"]: goal for goal in goals.evaluate(data)}
    if not found:
        return ""
    met = sum(goal["met"] for goal in found.values())
    lines = [
        f"Goals of the NumPy code, {met} of {len(found)} met. For a convolution: our time over PyTorch's, and the most "
        "that it may be; in brackets the ratio of the minimum times, which other processes disturb least. Convolutions "
        "are 3x3, N = 64, float32.",
        "",
        "| convolution | forward | goal | forward + backward | goal |",
        "|---|---|---|---|---|",
    ]
    for problem in CONVOLUTIONS["cpu"]:
        name = f"{problem.h}x{problem.w} {problem.c}->{problem.k}"
        pair = [found.pop(f"{name} {which}", None) for which in ("forward", "forward + backward")]
        if any(pair):
            lines.append(f"| {name} | {' | '.join(map(_cells, pair))} |")
    lines += [""]
    lines += [f"- {name}: {_amount(g)} {g['unit']}, at most {g['limit']:g}{_missed(g)}" for name, g in found.items()]
    return "\n".join(lines)


def _cells(goal: goals.Goal | None) -> str:
    return " | " if goal is None else f"{_amount(goal)} | {goal['limit']:g}{_missed(goal)}"


def _amount(goal: goals.Goal) -> str:
    value = f"{goal['value']:.0f}" if goal["value"] >= 100 else f"{goal['value']:.2f}"
    return value + (f" ({goal['least']:.2f})" if goal["least"] else "")


def _missed(goal: goals.Goal) -> str:
    return "" if goal["met"] else " **not met**"


# --- the chart ---------------------------------------------------------------------------------

_COLORS = {"bfloat16": "#1f77b4", "float32": "#d1603d", "float16": "#5a9e6f"}


def chart(record: Record, path: Path) -> None:
    """A row for each op, a dot for each shape: our time over the peer's, on a logarithmic axis. Needs matplotlib."""
    from matplotlib.figure import Figure

    entries = [(e, r) for e in record.data["entries"] if (r := goals.ratio(e))]
    ops = [op for op in OPS if any(entry["op"] == op for entry, _ in entries)]
    figure = Figure(figsize=(8, 1.3 + 0.36 * max(len(ops), 1)), dpi=130, layout="constrained")
    axes = figure.subplots()
    axes.axvline(1, color="black", linewidth=1)
    for dtype in dict.fromkeys(entry["dtype"] for entry, _ in entries):
        dots = [(ratio, ops.index(entry["op"])) for entry, ratio in entries if entry["dtype"] == dtype]
        across, down = zip(*dots)
        axes.scatter(across, down, s=26, color=_COLORS.get(dtype, "gray"), alpha=0.75, linewidths=0, label=dtype)
    for row, op in enumerate(ops):
        middle = statistics.median([ratio for entry, ratio in entries if entry["op"] == op])
        axes.plot([middle, middle], [row - 0.3, row + 0.3], color="black", linewidth=2)
    axes.set_xscale("log")
    ticks = _ticks([ratio for _, ratio in entries])
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlim(ticks[0], ticks[-1])
    axes.set_yticks(range(len(ops)), [op.replace("_", " ") for op in ops])
    axes.invert_yaxis()
    axes.grid(axis="x", color="0.88")
    axes.set_axisbelow(True)
    axes.set_xlabel("our time / PyTorch's best time (left of 1 is faster; the bar is the median)")
    axes.set_title(f"{record.data['device']}, {record.data['date'][:10]}, {record.data['commit']}", fontsize=9)
    if len({entry["dtype"] for entry, _ in entries}) > 1:
        axes.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(path) as file:
        figure.savefig(file, format="png", metadata={"Software": None})


def _ticks(ratios: Iterable[float]) -> list[float]:
    """Powers of two around all ratios and 1."""
    ratios = [1.0, *ratios]
    low, high = math.floor(math.log2(min(ratios) * 0.97)), math.ceil(math.log2(max(ratios) * 1.03))
    return [2.0**power for power in range(low, high + 1)]
