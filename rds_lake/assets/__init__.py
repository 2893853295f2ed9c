"""Dagster assets, one thin module per stage: they read partitions, call the rooms above, and report."""
