"""Benchmarks: one script for each published table."""
