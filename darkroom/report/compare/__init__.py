"""Comparison of runs: tables, paired differences and curves."""
