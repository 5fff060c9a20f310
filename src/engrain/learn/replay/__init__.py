"""What old data is mixed in."""
