"""Benchmarks of fastnn: `python -m bench` from the root of the repository."""
