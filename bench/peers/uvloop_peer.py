"""uvloop: the Protocol of `asyncio_peer.py` on uvloop's event loop."""

from importlib.metadata import version

import asyncio_peer
import callbacks
import uvloop

if __name__ == "__main__":
    callbacks.main(
        f"uvloop {version('uvloop')}, Protocol",
        lambda options, end: uvloop.run(asyncio_peer.listen(options, end)),
        lambda options, end: uvloop.run(asyncio_peer.connect(options, end)),
    )
