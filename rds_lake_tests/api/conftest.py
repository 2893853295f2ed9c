"""The stack's servers as this room sees them."""

from rooms import rooms

__all__ = ["rooms"]
