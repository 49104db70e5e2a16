import pytest

from bioshare.train.commands import many_runs
from bioshare.train.runs import Outcomes


@pytest.fixture
def train_here(monkeypatch, tmp_path):
    """A function that lets a command train in this process with a stand-in for `fit`, in an empty folder.

    It returns the jobs that the command hands out, as they come.
    """

    def stand_in(command, fit):
        seen = []

        def run_all(jobs, run, **_):
            seen.extend(jobs)
            return Outcomes({job.name: run(job.config, job.folder) for job in jobs})

        monkeypatch.setattr(many_runs, "run_all", run_all)
        monkeypatch.setattr(command, "fit", fit)
        monkeypatch.setattr(many_runs, "load", lambda dataset, folder: None)
        monkeypatch.chdir(tmp_path)
        return seen

    return stand_in
