"""``vqr1 ask``: two-alternative tests and multiple choice, on datasets and on published files of questions."""
