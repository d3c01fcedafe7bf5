"""A verdict on runs from elsewhere, from CSV files, an MLflow experiment or trainer states: the verb `compare`."""

from onecycle_sweeps.other_runs.judging import judged as judged
from onecycle_sweeps.other_runs.logs import LoggedRun as LoggedRun
from onecycle_sweeps.other_runs.logs import RunsOfMeasure as RunsOfMeasure
from onecycle_sweeps.other_runs.verb import main as main
