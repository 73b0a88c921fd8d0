"""``python -m vqr1`` is the console script: launchers start modules."""

from vqr1.cli import main

main()
