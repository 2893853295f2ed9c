"""rds_lake keeps an S3 lake and a Redshift warehouse in step with tables in MySQL on RDS."""

import os

# Arrow's usual allocator keeps what threads let go of: 60 MB of a split, 130 MB of one of many partitions at once.
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
