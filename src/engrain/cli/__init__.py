"""The command line: one thin file per verb; each parses, calls the library and prints.

Importing it brings no torch: a verb imports what it needs when it runs.
"""

from engrain.cli.app import app, main

__all__ = ["app", "main"]
