"""Check that the server answers a request like a browser's; /health skips the host check, login and database.

It logs in as a user who does not exist, so it needs no secret. Status 401 means that the host and origin checks accept
the public name (otherwise 403) and that the database answered (otherwise 500).
"""

import base64
import http.client
import os
import sys

UNKNOWN_USER = 401
SECONDS = 10


def main() -> str | None:
    """Return what is wrong, or None."""
    public = os.environ["PUBLIC_HOST"]
    nobody = base64.b64encode(b"health-check:").decode()
    headers = {"Host": public, "Origin": f"http://{public}", "Authorization": f"Basic {nobody}"}
    connection = http.client.HTTPConnection("127.0.0.1", int(os.environ["MLFLOW_PORT"]), timeout=SECONDS)
    try:
        headers["Content-Type"] = "application/json"
        connection.request("POST", "/api/2.0/mlflow/experiments/search", '{"max_results": 1}', headers)
        answer = connection.getresponse()
    except OSError as error:
        return f"no answer: {error}"
    if answer.status != UNKNOWN_USER:
        return f"{answer.status} instead of {UNKNOWN_USER}, with host {public}: {answer.read(200)!r}"
    return None


if __name__ == "__main__":
    sys.exit(main())
