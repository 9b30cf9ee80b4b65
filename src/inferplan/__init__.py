"""inferplan: offline profiling and plan generation for machine-learning inference serving."""

__version__ = "0.1.0"
__all__ = ["__version__"]
