"""Starts the runtime: `bootstrap` runs this file by its path, `python -m streaming_runtime` does the same."""

import sys

if not __package__:
    # Behind the standard library, so that a module of the function's cannot stand in for one of Python's.
    sys.path.append(__file__.rpartition("/streaming_runtime/")[0])

# A child that `multiprocessing` starts anew imports this file under another name.
if __name__ == "__main__":
    from streaming_runtime.lifecycle import main

    sys.exit(main())
