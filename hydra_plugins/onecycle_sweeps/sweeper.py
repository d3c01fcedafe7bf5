"""The default sweeper. Every Hydra program imports this module, so it imports nothing but Hydra."""

from collections.abc import Sequence

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper


class GridSweeper(BasicSweeper):
    """Hydra's own sweeper of all combinations, without its check that composes all jobs.

    This program's launcher composes all jobs of a batch before the first one starts.
    """

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Leave this check to the launcher, which reports mistakes in the same words."""
