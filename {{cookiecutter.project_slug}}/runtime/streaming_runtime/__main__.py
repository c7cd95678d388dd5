"""Start the runtime. `bootstrap` runs this file by its path; ``python -m streaming_runtime`` does the same."""

import sys

if not __package__:
    # Append: a module beside this package must not shadow one of the standard library.
    sys.path.append(__file__.rpartition("/streaming_runtime/")[0])

# Processes that `multiprocessing` spawns import this file under another name and must not start a second runtime.
if __name__ == "__main__":
    from streaming_runtime.lifecycle import main

    sys.exit(main())
