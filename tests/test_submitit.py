"""What the program uses of submitit without being promised it."""

import inspect
import subprocess
from pathlib import Path

import pytest
from submitit import SlurmExecutor

from onecycle_sweeps.launching.slurm.submission import Sbatch


def test_submitit_has_the_private_functions_that_are_used():
    assert list(inspect.signature(SlurmExecutor._make_submission_file_text).parameters) == ["self", "command", "uid"]
    assert list(inspect.signature(SlurmExecutor._submit_command).parameters) == ["self", "command"]
    assert "affinity" in vars(SlurmExecutor)


def test_a_command_stands_in_the_text_of_its_job(tmp_path: Path):
    executor = Sbatch(tmp_path)
    executor.parameters |= {"job_name": "mine", "time": 7, "map_count": 3, "setup": ["module load x"]}
    text = executor.text("python -m mine")
    assert {"#SBATCH --job-name=mine", "#SBATCH --time=7", "#SBATCH --array=0-2%3", "module load x"} <= {
        *text.split("\n")
    }
    assert "python -m mine" in text.splitlines()[-1]


def test_the_number_that_sbatch_gives_a_job_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    sbatch = tmp_path / "sbatch"
    sbatch.write_text("#!/bin/sh\necho Submitted batch job 4711\n")
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert subprocess.run(["sbatch"], capture_output=True, text=True, check=True).stdout.endswith("4711\n")
    assert Sbatch(tmp_path).submit_command("python -m mine") == "4711"
