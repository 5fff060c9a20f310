"""Models: loading, digests, weights, generation."""
