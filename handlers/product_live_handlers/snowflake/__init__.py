"""Snowflake tasks: `snowflake.task` executes one and waits for it, `snowflake.manage` does the rest of the Task API."""
