"""Declarative tables between official checkpoint keys and our parameter paths."""
