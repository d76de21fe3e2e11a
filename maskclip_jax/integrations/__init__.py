"""This package inside other frameworks; nothing here is imported by the rest of it."""
