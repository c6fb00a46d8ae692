"""One event, many readers: stages say a fact once; logs, metrics and pages read it."""
