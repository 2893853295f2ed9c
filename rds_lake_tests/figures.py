"""What tests came to, in words: recorded as a property, printed at the end of a run by `conftest`."""

FIGURES = "figures"
"""The property's name, for `record_property`."""
