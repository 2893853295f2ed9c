"""The stack's servers as this room sees them."""

from rooms import mysql_table, rooms

__all__ = ["mysql_table", "rooms"]
