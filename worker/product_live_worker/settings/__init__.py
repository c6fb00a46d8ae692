"""The settings: tree.py (all of them), values.py (what is allowed), reading.py (where from), mistakes.py (in words)."""

from product_live_worker.settings.reading import api_key, load
from product_live_worker.settings.tree import Api, Settings, Task

__all__ = ["Api", "Settings", "Task", "api_key", "load"]
