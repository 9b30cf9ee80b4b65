"""Show: tables and reports."""
