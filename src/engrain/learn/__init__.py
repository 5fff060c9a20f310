"""Learning: techniques in five categories, recipes made of them, one loop that runs a recipe."""
