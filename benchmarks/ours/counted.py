"""`counted FILE WORD...`: `rds-lake WORD...`, its calls to AWS counted on the way out and written to a file as JSON."""

import json
import sys
from collections import Counter
from pathlib import Path

from botocore.awsrequest import AWSPreparedRequest, AWSRequest, AWSResponse
from botocore.httpsession import URLLib3Session

from rds_lake import cli

CALLS: Counter[str] = Counter()


_send = URLLib3Session.send


def _counting_send(session: URLLib3Session, request: AWSRequest | AWSPreparedRequest) -> AWSResponse:
    target = request.headers.get("X-Amz-Target")  # what Glue is asked; S3 has none. Retries count as well.
    CALLS["Glue" if target else f"S3 {request.method}"] += 1
    return _send(session, request)


def main() -> None:
    """Run the command."""
    URLLib3Session.send = _counting_send  # type: ignore[method-assign, assignment]
    file = Path(sys.argv.pop(1))
    try:
        cli.main()
    finally:
        file.write_text(json.dumps(CALLS), encoding="utf-8")


if __name__ == "__main__":
    main()
