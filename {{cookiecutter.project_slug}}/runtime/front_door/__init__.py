"""Checks requests before the function's own handler runs; `entry` has the handler that Lambda calls."""
