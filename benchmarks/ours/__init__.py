"""The product as a contender: each module is a program that calls one of its rooms, and nothing inside it."""
