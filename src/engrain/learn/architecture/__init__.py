"""Where the update lives."""
