"""The audit: source, lake and warehouse compared from outside, each asked in its own SQL, nothing taken on trust."""
