"""`list_dagster BUCKET PREFIX`: what dagster_aws offers a sensor, `get_objects`, over a whole prefix once."""

import sys

from dagster_aws.s3.sensor import get_objects

found = get_objects(bucket=sys.argv[1], prefix=sys.argv[2])
sys.stdout.write(f"{len(found)} objects\n")
