"""Promises, each shown by a command: python -m tests.trust --help."""
