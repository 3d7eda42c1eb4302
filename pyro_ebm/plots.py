"""Figures: what a machine learned, what it dreams, and how far it came.

Each function returns a matplotlib `Figure` of its own, drawn without pyplot: nothing is shown,
nothing is kept, and no display is needed. `figure.savefig("name.png")` writes it, and a notebook
shows it.

Example:
    >>> import torch
    >>> from pyro_ebm import plots
    >>> plots.learning_curve([1, 2, 3], {"training": [-9.0, -7.0, -6.5]}).axes[0].get_ylabel()
    'log-likelihood (nats per row)'
"""

import io
from collections.abc import Mapping, Sequence
from functools import partial
from math import ceil
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import pad

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["energy_histograms", "filters", "images", "learning_curve", "restoration"]

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")  # Okabe and Ito
GREY = "#666666"
TILE = 0.72  # the width of one image and the gap after it, in inches


def filters(weight: Tensor, *, shape: tuple[int, int] = (8, 8)) -> "Figure":  # (n, m)
    """One tile for each hidden unit: its weights to the visible units, on one scale around 0.

    Args:
        weight: The coupling between visible and hidden units.
        shape: The height and width of the image that the visible units make.

    Raises:
        ValueError: If the weight is no matrix, or its visible units do not make such an image.

    Example:
        >>> import torch
        >>> from pyro_ebm import plots
        >>> len(plots.filters(torch.randn(64, 12)).axes)
        2
    """
    if weight.dim() != 2:
        raise ValueError(f"'weight' has shape {tuple(weight.shape)}; wanted (visible, hidden).")
    tiles = as_images(weight.T, "weight.T", shape)
    columns = columns_for(len(tiles))
    picture = mosaic(tiles, columns)
    figure = empty(TILE * columns + 1.0, TILE * columns * len(picture) / picture.shape[1] + 0.35)
    axes = figure.subplots()
    limit = float(tiles.abs().max()) or 1.0
    drawn = axes.imshow(picture.numpy(), cmap="RdBu_r", vmin=-limit, vmax=limit)
    between_tiles(axes)
    bar = figure.colorbar(drawn, ax=axes, aspect=25, pad=0.02)
    bar.set_label("weight", color=GREY)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelcolor=GREY)
    axes.set_title(f"Weights of the {len(tiles)} hidden units")
    return figure


def images(data: Tensor, fantasies: Tensor, *, shape: tuple[int, int] = (8, 8)) -> "Figure":
    """Data next to fantasies, tile by tile on one grey scale.

    Args:
        data: Rows of data (rows, n).
        fantasies: Draws of the machine, or the means of its visible units (rows, n).
        shape: The height and width of the image that a row makes, n = height * width.

    Raises:
        ValueError: If a row does not make such an image.

    Example:
        >>> import torch
        >>> from pyro_ebm import plots
        >>> figure = plots.images(torch.rand(20, 64).round(), torch.rand(20, 64).round())
        >>> [axes.get_title() for axes in figure.axes]
        ['data', 'fantasies']
    """
    panels = {
        "data": as_images(data, "data", shape),
        "fantasies": as_images(fantasies, "fantasies", shape),
    }
    columns = ceil(max(len(tiles) for tiles in panels.values()) ** 0.5)
    low = min(float(tiles.min()) for tiles in panels.values())
    high = max(float(tiles.max()) for tiles in panels.values())
    pictures = {title: mosaic(tiles, columns) for title, tiles in panels.items()}
    tallest = max(len(picture) / picture.shape[1] for picture in pictures.values())
    figure = empty(2 * TILE * columns + 0.4, TILE * columns * tallest + 0.5)
    for place, (title, picture) in zip(figure.subplots(1, 2), pictures.items(), strict=True):
        place.imshow(picture.numpy(), cmap="gray_r", vmin=low, vmax=high)
        place.set(title=title, anchor="N")
        between_tiles(place)
    return figure


def restoration(
    rows: Mapping[str, Tensor], deviation: Tensor, *, shape: tuple[int, int] = (8, 8)
) -> "Figure":
    """Images above one another, step by step, and how uncertain each pixel of the last is.

    Args:
        rows: For each label, images of bits or of probabilities (images, n), the same ones in each
            row; NaN where a pixel is missing.
        deviation: The standard deviations of the pixels (images, n), of bits at most ½.
        shape: The height and width of an image, n = height * width.

    Raises:
        ValueError: If a row does not make such images, or rows have other numbers of them.

    Example:
        >>> import torch
        >>> from pyro_ebm import plots
        >>> rows = {"true": torch.rand(3, 64).round(), "noisy": torch.rand(3, 64).round()}
        >>> len(plots.restoration(rows, torch.rand(3, 64)).axes)
        4
    """
    label = "uncertainty"
    tiles = {name: as_images(value, name, shape) for name, value in rows.items()}
    tiles[label] = as_images(deviation, "deviation", shape)
    counts = {name: len(value) for name, value in tiles.items()}
    if len(set(counts.values())) > 1:
        raise ValueError(f"The rows have {counts} images; wanted the same number in each.")
    pictures = {name: mosaic(value, len(value)) for name, value in tiles.items()}
    height = TILE * shape[0] / shape[1]
    figure = empty(TILE * counts[label] + 2.0, (height + 0.06) * len(pictures) + 0.1)
    axes = figure.subplots(len(pictures), 1)
    for place, (name, picture) in zip(axes, pictures.items(), strict=True):
        colours, top = ("magma", 0.5) if name == label else ("gray_r", 1.0)
        drawn = place.imshow(picture.numpy(), cmap=colours, vmin=0, vmax=top)
        between_tiles(place)
        place.set_ylabel(name, rotation=0, ha="right", va="center")
    # Room is taken from all rows, so that they stay below one another.
    bar = figure.colorbar(drawn, ax=axes, shrink=1 / len(axes), anchor=(0, 0), pad=0.02, aspect=6)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelcolor=GREY, labelsize=8)
    return figure


def energy_histograms(energies: Mapping[str, Tensor]) -> "Figure":
    """One row for each kind of state: how its energies are spread, over common bins.

    Where a machine fits, fantasies have the energies of the data.

    Args:
        energies: For each label, energies or free energies of any shape, in nats.

    Raises:
        ValueError: If there is nothing to show, or an energy is not finite.

    Example:
        >>> import torch
        >>> from pyro_ebm import plots
        >>> energies = {"data": torch.randn(100), "fantasies": torch.randn(100)}
        >>> len(plots.energy_histograms(energies).axes)
        2
    """
    flat = {label: finite(value.flatten(), label) for label, value in energies.items()}
    if not flat:
        raise ValueError("'energies' is empty; give {label: energies, ...}.")
    low = min(float(value.min()) for value in flat.values())
    high = max(float(value.max()) for value in flat.values())
    if low == high:
        low, high = low - 0.5, high + 0.5
    bins = torch.linspace(low, high, 41, dtype=torch.float64)
    figure = empty(6.4, 0.6 + 1.25 * len(flat))
    axes = figure.subplots(len(flat), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for k, (place, (label, value)) in enumerate(zip(axes, flat.items(), strict=True)):
        colour = COLOURS[k % len(COLOURS)]
        weights = torch.full_like(value, 100 / len(value))
        place.hist(value.numpy(), bins=bins.numpy(), weights=weights.numpy(), color=colour)
        mean = float(value.mean())
        place.axvline(mean, color="black", linewidth=1)
        place.set_title(f"{label}: mean {number(mean)} nats", loc="left", fontsize=10, color=colour)
        place.set_ylabel("states (%)")
        bare(place)
    axes[-1].set_xlabel("energy (nats)")
    return figure


def learning_curve(
    epochs: Sequence[float],
    series: Mapping[str, Sequence[float]],
    references: Mapping[str, float] | None = None,
    *,
    quantity: str = "log-likelihood (nats per row)",
) -> "Figure":
    """Figures over epochs, with what other models reach as lines across.

    Args:
        epochs: Where the figures were taken.
        series: For each label, one number for each epoch.
        references: For each label, a level to compare with.
        quantity: What is shown, with its unit.

    Raises:
        ValueError: If a series has not one number for each epoch.

    Example:
        >>> from pyro_ebm import plots
        >>> figure = plots.learning_curve([1, 2, 3], {"training": [-9.0, -7.0, -6.5]})
        >>> figure.axes[0].get_ylabel()
        'log-likelihood (nats per row)'
    """
    figure = empty(6.8, 4.0)
    axes = figure.subplots()
    for k, (label, values) in enumerate(series.items()):
        if len(values) != len(epochs):
            raise ValueError(
                f"{label!r} has {len(values)} numbers for {len(epochs)} epochs; give one for each."
            )
        axes.plot(epochs, values, color=COLOURS[k % len(COLOURS)], linewidth=1.8, label=label)
    for label, level in (references or {}).items():
        axes.axhline(level, color=GREY, linewidth=1, linestyle=(0, (4, 3)), zorder=0)
        axes.annotate(
            f"{label}\n{number(level)}",
            xy=(1, level),
            xycoords=("axes fraction", "data"),
            xytext=(6, 0),
            textcoords="offset points",
            verticalalignment="center",
            color=GREY,
            fontsize=9,
        )
    axes.margins(x=0.01)
    axes.set_xlabel("epoch")
    axes.set_ylabel(quantity)
    bare(axes)
    if series:
        axes.legend(frameon=False, loc="best")
    return figure


def empty(width: float, height: float) -> "Figure":
    """A blank figure, in inches, that makes room for its labels.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError(
            "The figures need matplotlib, which is not installed: "
            "pip install 'pyro-ebm[plots]', or pip install matplotlib."
        ) from None
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    # Notebooks ask for this; without pyplot they do not know how to show a figure.
    figure._repr_png_ = partial(as_png, figure)  # type: ignore[attr-defined]
    return figure


def as_png(figure: "Figure") -> bytes:
    """A figure as the bytes of a PNG file."""
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def columns_for(count: int) -> int:
    """As many columns as fill a wide grid evenly: 10, or fewer where that leaves no hole."""
    if count <= 10:
        return max(count, 1)
    return max((k for k in range(5, 11) if count % k == 0), default=10)


def as_images(rows: Tensor, name: str, shape: tuple[int, int]) -> Tensor:
    """Rows as images on the CPU, (rows, n) -> (rows, height, width).

    Raises:
        ValueError: If there are no rows, or a row has not height * width numbers.
    """
    height, width = shape
    if rows.dim() != 2 or len(rows) == 0 or rows.shape[1] != height * width:
        raise ValueError(
            f"{name!r} has shape {tuple(rows.shape)}; wanted (rows, {height * width}) for images "
            f"of {height} × {width}. Give shape=(height, width)."
        )
    return rows.detach().cpu().double().reshape(-1, height, width)


def finite(value: Tensor, label: str) -> Tensor:
    """Energies in float64 on the CPU.

    Raises:
        ValueError: If there are none, or one is not finite.
    """
    value = value.detach().cpu().double()
    if len(value) == 0 or not bool(value.isfinite().all()):
        raise ValueError(
            f"The energies of {label!r} are {'none' if len(value) == 0 else 'not all finite'}; "
            "wanted at least one, and no NaN or infinite ones."
        )
    return value


def mosaic(tiles: Tensor, columns: int) -> Tensor:  # (count, height, width) -> (pixels, pixels)
    """One picture of all tiles, row by row, with NaN between them and where there is none."""
    gap = max(1, tiles.shape[-1] // 4)  # in quarters of a pixel: a 16th of a tile
    fine = tiles.repeat_interleave(4, 1).repeat_interleave(4, 2)
    fine = pad(fine, (0, gap, 0, gap), value=torch.nan)
    rows = ceil(len(fine) / columns)
    grid = torch.full((rows * columns, *fine.shape[1:]), torch.nan, dtype=fine.dtype)
    grid[: len(fine)] = fine
    grid = grid.unflatten(0, (rows, columns)).transpose(1, 2)
    return grid.flatten(2).flatten(0, 1)[:-gap, :-gap]


def between_tiles(axes: "Axes") -> None:
    """Light grey wherever a mosaic has nothing, and no box."""
    axes.set(xticks=[], yticks=[], facecolor="#dedede")
    axes.spines[:].set_visible(False)


def bare(axes: "Axes") -> None:
    """Axes without the box."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(color=GREY, labelcolor=GREY)


def number(value: float) -> str:
    """A figure with two decimals and a true minus sign, as on the axes."""
    return f"{value:.2f}".replace("-", "\N{MINUS SIGN}")
