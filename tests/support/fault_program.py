"""``vqr1`` with one fault put in:  python tests/support/fault_program.py MODULE:FUNCTION[:ARGUMENT...] train ...

The function is called first, with its arguments as text; it wraps what it harms. Nothing of the package is changed.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    module, function, *given = sys.argv[1].split(":")
    from vqr1 import cli

    cli.quiet_environment()
    getattr(import_module(module), function)(*given)
    sys.argv[1:] = sys.argv[2:]
    cli.main()
