"""The sandbox over TLS, as `platform.test`: a worker sends its key to another machine in no other way."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import uvicorn

from product_live_worker import sandbox

CERTIFICATE = Path(__file__).parent / "certificates" / "platform.test.pem"

if __name__ == "__main__":
    world = sandbox.World(epoch=time.time() - time.monotonic())
    app = sandbox.create_app(world, time.monotonic)
    uvicorn.run(app, host="0.0.0.0", port=int(sys.argv[1]), ssl_certfile=CERTIFICATE, log_level="warning")  # noqa: S104 (in a network of its own)
