"""Quality: declared rules compiled to SQL, and the split of a landed batch into staging and discarded."""
