"""What the worker tells of itself over HTTP; none of it spends a request."""
