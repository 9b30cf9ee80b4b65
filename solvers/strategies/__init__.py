"""Published systems as strategies: the same problem in, a deployment out, one cost model and one simulator for all.

One file per strategy, named as it is (`_` for `-`), with one function `propose(problem, tools)`. A strategy decides
as its system does; what it decides is priced, simulated and checked like any other plan (`solvers.contest`).
"""
