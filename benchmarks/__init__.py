"""Benchmarks: the product, the peers and the limit side by side, as whole processes, in interleaved rounds.

`make bench` runs it; `python -m benchmarks --help` shows its words. The product's own package never imports this one.
"""
