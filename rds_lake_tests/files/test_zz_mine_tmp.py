from test_file_sensors import *
from test_file_sensors import zone, instance

def test_x(zone, monkeypatch):
    drops = zone.drops
    drops.schema("t", "id bigint")
    zone.run({})
    drops.drop("append", "t", "a.csv", "id\n1\n")
    monkeypatch.setattr("rds_lake.assets.common.RETRY_SECONDS", 0.1)
    away = drops.environ["RDS_LAKE_WAREHOUSE_URL"].rsplit(":", 1)[0] + ":9/none"
    monkeypatch.setenv("RDS_LAKE_WAREHOUSE_URL", away)
    r = zone.run({}, raise_on_error=False)
    print("SUCCESS?", r.success, [(x.file_name, x.status, x.attempts) for x in drops.records("t")])
