"""The handlers that come with the worker, one file each."""
