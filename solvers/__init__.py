"""Decide: option table, exact MILP, plan."""
