"""Ratios between the library and what it is compared with: `python -m benchmarks`."""
