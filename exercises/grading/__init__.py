"""Grading: a solution runs in a process of its own, and what it returns is judged here."""
