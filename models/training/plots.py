"""The report's pictures: drawn from what a run computed, in colours that the colour-blind can tell apart."""

from collections.abc import Mapping, Sequence

import cv2
import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from pipeline.frame import Pixels

STYLES = {"int8": ("#0072b2", "-"), "float": ("#d55e00", "--")}
"""Blue and vermilion of Okabe & Ito; the dashes say the same without colour."""

DARKEST = 0.6
"""Of the heat maps' colours, up to which all figures look alike: what matters is near 1."""

OPACITY = 0.6
"""Of the strongest activation, as on the node's pages."""


def draw_curves(
    curves: Mapping[str, Sequence[Sequence[float]]],
    *,
    across: str,
    up: str,
    square: bool = False,
    marker: str = "",
) -> Figure:
    """Draw a line of points for each side, from 0 across and up; a square is to 1, with its diagonal."""
    figure = Figure(figsize=(4.6, 4.2), layout="constrained")
    axes = figure.add_subplot(xlabel=across, ylabel=up, xlim=(0, 1))
    for side, points in curves.items():
        colour, line = STYLES[side]
        axes.plot(*np.array(points).T[:2], line, color=colour, label=side, marker=marker, markersize=4)
    axes.set_ylim(0, 1 if square else None)
    if square:
        axes.plot([0, 1], [0, 1], ":", color="#777777", linewidth=0.8)
        axes.legend(frameon=False)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def draw_grid(rows: Sequence[Mapping[str, str]], *, chosen: Mapping[str, float]) -> Figure:
    """Draw one bag size's rows of ``grid.csv``, what was chosen outlined; each t's unpredicted in a strip."""
    thresholds, top_ks = ([*dict.fromkeys(row[name] for row in rows)] for name in ("threshold", "top_k"))
    corner = (top_ks.index(str(chosen["top_k"])) - 0.5, thresholds.index(str(chosen["threshold"])) - 0.5)
    figure = Figure(figsize=(11, 3.6))
    edges = {"left": 0.065, "right": 0.99, "bottom": 0.13, "top": 0.92, "wspace": 0.03}
    panels = figure.subplots(1, 4, width_ratios=[10, 10, 10, 2.9], gridspec_kw=edges)
    titles = {"mcc": "MCC", "accuracy": "Accuracy", "f1": "F1", "unpredicted": "Unpredicted"}
    for axes, (name, title) in zip(panels, titles.items(), strict=True):
        cells = np.array([float(row[name]) for row in rows]).reshape(len(thresholds), len(top_ks))
        is_strip = name == "unpredicted"
        if is_strip:
            cells = cells[:, :1]
            axes.imshow(cells, cmap="Greys", vmin=0, vmax=2 * cells.max() or 1, aspect="auto")
        else:
            axes.imshow(cells, cmap="cividis", vmin=DARKEST, vmax=1, aspect="auto")
            axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor="#d00000", linewidth=2))
        for (row, column), value in np.ndenumerate(cells):
            words = f"{value:.1f}" if is_strip else f"{value:.2f}"
            colour = "black" if is_strip or value > (1 + DARKEST) / 2 else "white"
            axes.text(column, row, words, ha="center", va="center", color=colour, fontsize=7)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("patients" if is_strip else "k, frames at most")
        axes.set_xticks([] if is_strip else range(len(top_ks)), [] if is_strip else top_ks)
        axes.set_yticks([])
    panels[0].set_yticks(range(len(thresholds)), thresholds)
    panels[0].set_ylabel("t, confidence at least")
    return figure


def draw_evidence(view: Pixels, activations: NDArray[np.float32]) -> Figure:
    """Draw what the network saw, and beside it the activations of the class it read: ``(h, w)``.

    Relative to the frame's strongest one; what speaks against the class is not tinted.
    """
    large = np.maximum(cv2.resize(activations, view.shape[1::-1], interpolation=cv2.INTER_CUBIC), 0)
    strength = large / max(float(large.max()), np.finfo(np.float32).tiny)
    alpha = OPACITY * strength[..., None]
    tinted = view / 255 * (1 - alpha) + mpl.colormaps["viridis"](strength)[..., :3] * alpha
    figure = Figure(figsize=(3.5, 1.75), layout="constrained")
    for axes, pixels in zip(figure.subplots(1, 2), (view, tinted), strict=True):
        axes.imshow(pixels)
        axes.axis("off")
    return figure
