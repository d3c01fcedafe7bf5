"""The sweeper that a sweep has unless another is chosen; every Hydra program imports it, so it imports Hydra alone."""

from collections.abc import Sequence

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper


class GridSweeper(BasicSweeper):
    """Hydra's own sweeper, every combination of what was typed, without a composition of all jobs beforehand.

    The launchers of this program compose all jobs of a batch before the first one starts.
    """

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Leave it to the launcher to compose the jobs, which tells of mistakes in the same words."""
