"""rds_lake keeps an S3 lake and a Redshift warehouse in step with tables in MySQL on RDS."""
