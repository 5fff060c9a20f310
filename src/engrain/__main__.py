"""``python -m engrain``: the same as the command ``engrain``."""

from engrain.cli import main

if __name__ == "__main__":
    main()
