"""What is remembered outside the weights: the verbatim log."""
