"""`copy_files BUCKET PREFIX`: the naive way with dropped files: list them, and COPY each CSV as it is into the table.

No claim, no check, no record, nothing moved: a second run loads all again, and one bad row stops it.
"""

import os
import sys
from urllib.parse import urlsplit

import boto3
import psycopg2

url = urlsplit(os.environ["RDS_LAKE_WAREHOUSE_URL"])
connection = psycopg2.connect(
    host=url.hostname, port=url.port, user=url.username, password=url.password, dbname=url.path[1:]
)
connection.autocommit = True
s3, (bucket, prefix) = boto3.client("s3"), sys.argv[1:3]
with connection.cursor() as cursor:
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for item in page.get("Contents", ()):
            cursor.execute(
                "COPY bench.deliveries FROM %s IAM_ROLE %s CSV",
                (f"s3://{bucket}/{item['Key']}", os.environ["RDS_LAKE_REDSHIFT_IAM_ROLE"]),
            )
connection.close()
