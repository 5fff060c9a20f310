"""What of the input is held fixed."""
