import sys, time
sys.path.insert(0,"/work/main/rds_lake_tests/api")
from api_harness import *
from rooms import rooms
def test_perf(rooms):
    log=new_log(rooms)
    recs=[record_of(n,status="failed" if n%100==0 else "completed") for n in range(10000)]
    write(rooms.client("dynamodb"),log,recs)
    def t(f):
        s=time.perf_counter(); r=f(); return time.perf_counter()-s
    with serving(keyed(log)) as c:
        for kw in ({"limit":1000},{"limit":100},{"status":"failed","limit":100},{"status":"failed","limit":50},{"status":"rejected","limit":10}):
            a=min(t(lambda: log.records(TABLE,**kw)) for _ in range(3))
            b=min(t(lambda: c.get("/logs",table_name=TABLE,**kw)) for _ in range(3))
            print(kw, f"log {a*1000:.0f} ms, api {b*1000:.0f} ms")
        rid=recs[5].file_id
        print("get", min(t(lambda: log.find(rid)) for _ in range(3))*1000, min(t(lambda: c.get("/logs/"+rid)) for _ in range(3))*1000)
        print("health", min(t(lambda: c.get("/health")) for _ in range(5))*1000)
        print("404", min(t(lambda: c.get("/logs", table_name="x")) for _ in range(5))*1000)
