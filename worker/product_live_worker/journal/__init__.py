"""Durable memory and outbox: the only place where the stages meet."""
