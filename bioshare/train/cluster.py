"""The former name of `bioshare.train.runs`, for scripts that have it."""

from bioshare.train.runs import Job as Job
from bioshare.train.runs import Outcomes as Outcomes
from bioshare.train.runs import run_all as run_all
