"""A Lambda function URL on localhost: the Runtime API, the sandbox and the URL, without Docker and without AWS."""
