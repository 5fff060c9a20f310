"""What is added to the loss."""
