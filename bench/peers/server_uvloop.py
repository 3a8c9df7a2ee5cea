"""uvloop: the Protocol of `server_asyncio.py` on uvloop's event loop."""

from importlib.metadata import version

import server_asyncio
import serving
import uvloop


def serve(handler: serving.Handler, address: str) -> None:
    uvloop.run(server_asyncio.listen(handler, address))


if __name__ == "__main__":
    serving.main(f"uvloop {version('uvloop')}, Protocol", serve)
