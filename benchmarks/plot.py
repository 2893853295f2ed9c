"""`plot RESULTS SIZE FILE`: the plot of one run, drawn with matplotlib in an environment of its own.

Bars: seconds as a ratio to the limit, for the extraction of orders. Lines: seconds and memory against rows.
"""

import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt

COLOURS = {"ours": "#1b6ca8", "limit": "#999999", "peer": "#d9a441"}
SALT = "rds_lake"
MARGIN = 1.6
"""Room to the right of the longest bar for its number; the axis is logarithmic."""


def bars(axes: Any, stage: dict[str, Any]) -> None:  # noqa: ANN401 - matplotlib has no types here
    """Seconds as a ratio to the limit."""
    done = [each for each in stage["outcomes"] if not each["error"] and each["seconds"]]
    to = next((median(each["seconds"]) for each in done if each["role"] == "limit"), None)
    if to is None:
        return
    ratios = sorted(((median(each["seconds"]) / to, each) for each in done), key=lambda pair: -pair[0])
    names = [each["contender"].removeprefix("limit: ") for _, each in ratios]
    drawn = axes.barh(names, [ratio for ratio, _ in ratios], color=[COLOURS[each["role"]] for _, each in ratios])
    axes.bar_label(drawn, labels=[f"{ratio:.1f} x" for ratio, _ in ratios], padding=3, fontsize=8)
    axes.set_xscale("log")
    axes.set_xlim(right=max(ratio for ratio, _ in ratios) * MARGIN)
    axes.set_title(f"Extract {stage['rows']:,} orders to Parquet: seconds, x the limit", fontsize=10)
    axes.tick_params(axis="y", labelsize=8)


def lines(axes: Any, stages: list[dict[str, Any]], figure: str, title: str) -> None:  # noqa: ANN401 - as above
    """One figure against the number of rows."""
    points: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for stage in stages:
        for each in stage["outcomes"]:
            if not each["error"] and each[figure]:
                name = f"{each['contender'].split(':')[0]}: {each['step']}"
                points.setdefault((name, each["role"]), []).append((stage["rows"], median(each[figure])))
    for number, ((name, role), some) in enumerate(points.items()):
        rows, values = zip(*sorted(some), strict=True)
        style = ("-", "--", ":", "-.")[number % 4]
        axes.plot(rows, values, marker="o", linestyle=style, color=COLOURS[role], label=name)
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("rows", fontsize=8)
    axes.set_title(title, fontsize=10)
    axes.legend(fontsize=7)


def main() -> None:
    """Draw what there is."""
    results, size, file = sys.argv[1:]
    mpl.rcParams["svg.hashsalt"] = SALT  # the same results make the same file
    stages = list(json.loads(Path(results).read_text(encoding="utf-8")).get(size, {}).values())
    extracts = [stage for stage in stages if stage["stage"] == "extract_orders" and stage["outcomes"]]
    growth = [stage for stage in stages if stage["stage"] == "growth"]
    widths = (1.5, 1, 1) if growth else (1.5,)
    size_of_all = (17 if growth else 9, 4.8)
    drawing, [axes] = plt.subplots(
        1, len(widths), figsize=size_of_all, width_ratios=widths, layout="constrained", squeeze=False
    )
    if extracts:
        bars(axes[0], extracts[-1])
    if growth:
        lines(axes[1], growth, "seconds", "rds-lake sync and bare copies: seconds")
        lines(axes[2], growth, "peak_mb", "peak memory, MB")
    drawing.savefig(file, metadata={"Date": None})


if __name__ == "__main__":
    main()
