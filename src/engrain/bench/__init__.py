"""Benchmarks that the product itself can run: a life of lessons, recipe against recipe."""
