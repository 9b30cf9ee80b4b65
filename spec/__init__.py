"""The documents: workload, profile, plan, and the contract with user stage code. Imports nothing of ours."""
