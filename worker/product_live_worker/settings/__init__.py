"""The settings: tree.py (all of them), values.py (what is allowed), reading.py (where from), mistakes.py (in words)."""

from product_live_worker.settings.reading import admin_token, api_key, check_admin_token, known_secrets, load
from product_live_worker.settings.tree import Api, Settings, Task

__all__ = ["Api", "Settings", "Task", "admin_token", "api_key", "check_admin_token", "known_secrets", "load"]
