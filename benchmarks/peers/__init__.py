"""What a user would write instead of a worker, each a process of its own that shares no code with the worker."""
