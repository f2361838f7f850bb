"""Families of competition problems, by field; each has one maker of problems."""
