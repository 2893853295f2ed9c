"""The REST API over the audit log: FastAPI at the edge, `rds_lake.audit_log` behind it. It writes nothing."""
