"""Doing it: build, check and time variants; search; advise."""
