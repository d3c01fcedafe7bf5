"""Whether the server answers as a browser would ask it: /health passes by its host check, its login and its database.

It logs in as a user who is not there: that MLflow knows so (401) says that the host and origin checks let the public
name in (else 403) and that the database answered (else 500), and needs no secret.
"""

import base64
import http.client
import os
import sys

UNKNOWN_USER = 401
SECONDS = 10


def main() -> str | None:
    """What is wrong, or None."""
    public = os.environ["PUBLIC_HOST"]
    nobody = base64.b64encode(b"nobody, who asks for the server's health:").decode()
    headers = {"Host": public, "Origin": f"http://{public}", "Authorization": f"Basic {nobody}"}
    connection = http.client.HTTPConnection("127.0.0.1", int(os.environ["MLFLOW_PORT"]), timeout=SECONDS)
    try:
        headers["Content-Type"] = "application/json"
        connection.request("POST", "/api/2.0/mlflow/experiments/search", '{"max_results": 1}', headers)
        answer = connection.getresponse()
    except OSError as error:
        return f"no answer: {error}"
    if answer.status != UNKNOWN_USER:
        return f"{answer.status} in place of {UNKNOWN_USER}, asked as {public}: {answer.read(200)!r}"
    return None


if __name__ == "__main__":
    sys.exit(main())
