"""What the worker makes of 50 requests a minute, measured against an independent platform in another process."""
