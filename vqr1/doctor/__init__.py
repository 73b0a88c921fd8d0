"""``vqr1 doctor``: whether a machine has what training needs, line by line, with a remedy for what it lacks."""
