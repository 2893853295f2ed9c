"""One folder per table, each with its `defs.yaml`: the only place that most users touch."""
