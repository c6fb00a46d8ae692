"""What a handler's author imports; nothing else is public."""

from product_live_worker.model.context import Callback, Context, Lease, Log, NotSaved
from product_live_worker.model.files import File, Files, TransferFailed
from product_live_worker.model.handler import Handler, handler
from product_live_worker.model.refusal import TaskFailed
from product_live_worker.model.resource import resource
from product_live_worker.model.retry import Retry

__all__ = [
    "Callback",
    "Context",
    "File",
    "Files",
    "Handler",
    "Lease",
    "Log",
    "NotSaved",
    "Retry",
    "TaskFailed",
    "TransferFailed",
    "handler",
    "resource",
]
__version__ = "0.1.0"
