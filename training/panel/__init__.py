"""The script that builds the panel inside the package."""
