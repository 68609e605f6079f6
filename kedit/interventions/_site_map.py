"""Results for each site and position of a model, which are drawn as a map."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from kedit._show import html
from kedit._show.code import outline
from kedit._show.plots import draw_map


@dataclass(frozen=True, eq=False, repr=False)
class SiteMap:
    """Base class of results of studies that have a row for each site.

    Attributes:
        sites: Names of the sites.
        positions: Names of the positions.
    """

    sites: list[str]
    positions: list[str]

    shows: ClassVar[str]
    """What the map shows, in words."""
    scale: ClassVar[float] = 0.0
    """What the colours reach to at least."""

    @property
    def shown(self) -> Any:
        """What the map shows, `(num_sites, num_positions)`."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return outline(self)

    def _repr_html_(self) -> str:
        """What the map shows in a notebook: a row for each site, a column for a position."""
        rows = [(site, *row) for site, row in zip(self.sites, self.shown, strict=True)]
        title = f"{self.shows.capitalize()}, by site and position"
        return html.table(title, ("site", *self.positions), rows)

    def plot(self, ax: Any = None) -> Any:
        """Draw a map of sites and positions.

        Args:
            ax: Matplotlib axes to draw on. Defaults to None: new axes.

        Returns:
            The axes.

        Raises:
            ImportError: If matplotlib is not installed.
        """
        found = self.shown
        ax = draw_map(found, max(self.scale, np.abs(found).max()) or 1.0, self.shows, ax)
        ax.set_xticks(range(len(self.positions)), self.positions)
        ax.set_yticks(range(len(self.sites)), self.sites)
        ax.set(xlabel="position", ylabel="site")
        return ax
