"""The audit log in DynamoDB: one record per file version, and per run of a table's pipeline."""
