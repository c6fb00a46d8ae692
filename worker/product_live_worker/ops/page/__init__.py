"""The operator's page: the status document as a person reads it, and the actions that may be asked for on it."""
