"""Discrete-event simulation of a plan: the judge of its latency promises.

The pipeline is a feed-forward DAG, so every station is computed on its own, stage by stage, in one pass over
its sorted arrivals (`station`, `kernels`). `replication` runs a network once; `experiment` runs replications until
every promise is decided; `outcome` has what comes out, `spending` where time went, `scenario` failures and starts.
"""

from inferplan.estimators.simulation.experiment import Effort, simulate
from inferplan.estimators.simulation.outcome import SimulationResult, StageResult, StationResult, StreamResult
from inferplan.estimators.simulation.replication import Chance, Randomness, Replication, replicate

__all__ = [
    "Chance",
    "Effort",
    "Randomness",
    "Replication",
    "SimulationResult",
    "StageResult",
    "StationResult",
    "StreamResult",
    "replicate",
    "simulate",
]
