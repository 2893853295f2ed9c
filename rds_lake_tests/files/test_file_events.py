"""x."""
import json
def bridged(v): return json.dumps({"detail": {"bucket": {"name": v.bucket}, "object": {"key": v.key}}})
