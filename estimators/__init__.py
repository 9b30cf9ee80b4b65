"""Predict: latency, accuracy, cost, queueing, and the discrete-event simulator."""
