"""What `tests.bench.report` found, as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.bench.pages import BYTES, Results, Size

# Colours that stay apart for colour-blind readers (Okabe and Ito, 2008), and a mark of its own for each.
STYLES = {
    "roiservice": ("#0072B2", "o", "-", 2.4),
    "roiservice, all cores": ("#0072B2", "s", "-", 1.4),
    "roiservice build": ("#D55E00", "D", "-", 2.4),
    "fastlabelcontours": ("#009E73", "^", "-", 1.4),
    "rasterio": ("#E69F00", "v", "-", 1.4),
    "OpenCV": ("#56B4E9", "<", "-", 1.4),
    "scikit-image": ("#CC79A7", ">", "-", 1.4),
    "qubalab": ("#8C6D00", "P", "-", 1.4),
    "spatialdata": ("#7F3C8D", "X", "-", 1.4),
    "reading and decoding": ("#000000", "", "--", 1.4),
    "a numpy pass": ("#808080", "", "--", 1.4),
}


def draw(results: Results, sizes: list[Size], gigabytes: float, file: Path) -> None:
    """Two plots side by side, throughput and peak memory over pixels, all axes logarithmic."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    plt.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
    figure, (speed, memory) = plt.subplots(1, 2, figsize=(12, 6), layout="constrained")
    for name, own in results.items():
        done = [size for size in sizes if not own[size.name].reason]
        pixels = [size.pixels for size in done]
        color, mark, line, width = STYLES[name]
        look = {"color": color, "marker": mark, "linestyle": line, "linewidth": width, "markersize": 6}
        speed.plot(pixels, [own[size.name].rate for size in done], label=name, **look)
        memory.plot(pixels, [own[size.name].memory / 1000 for size in done], **look)
    speed.set_ylabel("million pixels per second")
    speed.set_title("Throughput: higher is better", loc="left", fontweight="bold")
    memory.set_ylabel("peak memory of the process, GB")
    memory.set_title("Memory: lower is better", loc="left", fontweight="bold")
    memory.axhline(gigabytes, color="#808080", linewidth=0.8)
    memory.annotate("most that is allowed", (sizes[0].pixels, gigabytes), (0, 4), textcoords="offset points")
    held = [size.pixels for size in sizes if size.plane]
    memory.plot(
        held, [BYTES * each / 1e9 for each in held], color="#808080", linestyle=":", label="the pixels"
    )
    for axes in (speed, memory):
        scale(axes, sizes)
    memory.set(ylim=(0.1, 1.5 * gigabytes), yticks=[0.1, 0.2, 0.5, 1, 2, gigabytes])
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(file, dpi=120)
    plt.close(figure)


def scale(axes: Any, sizes: list[Size]) -> None:
    """Logarithmic axes with the sizes along the lower one, and numbers as one writes them."""
    from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

    axes.set(xscale="log", yscale="log", xlabel="size of the plane, pixels")
    axes.set_xticks([size.pixels for size in sizes], [size.name.replace(" x ", "\nx ") for size in sizes])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(color="#DDDDDD", linewidth=0.7)
    axes.set_axisbelow(True)
