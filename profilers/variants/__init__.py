"""Variants made from variants by existing tools, each checked against its parent."""
