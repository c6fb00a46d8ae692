"""Handlers with which the tests of deploy/ look at an installation from inside."""
