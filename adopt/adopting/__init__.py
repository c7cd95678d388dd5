"""Adds streaming to one function of an existing SAM application, and removes it again."""
