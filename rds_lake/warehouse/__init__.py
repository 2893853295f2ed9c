"""The warehouse: Redshift's SQL, the load transaction and the ledger."""
