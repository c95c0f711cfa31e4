"""moto, one request at a time: `python tests/servers/motoserver.py PORT` serves on 127.0.0.1.

By itself moto answers each request in a thread of its own and guards nothing: of writers that compare and swap at the
same time several may win, and a read beside a writer may be answered with 500. Connections still have a thread each, so
that one that is idle, or sends slowly, keeps nobody waiting.
"""

from __future__ import annotations

import os
import sys
from io import BytesIO
from threading import Lock
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


def one_at_a_time(app: Callable[..., Iterable[bytes]], /) -> Callable[[dict[str, Any], Any], list[bytes]]:
    """A WSGI application that runs another one on whole requests, one after another, to the end of each answer."""
    lock = Lock()

    def run(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        size = -1 if environ.get("wsgi.input_terminated") else int(environ.get("CONTENT_LENGTH") or 0)
        environ["wsgi.input"] = BytesIO(environ["wsgi.input"].read(size))
        with lock:
            answer: Any = app(environ, start_response)
            try:
                return list(answer)
            finally:
                if hasattr(answer, "close"):
                    answer.close()

    return run


def main(port: int) -> None:
    """Serve until the process is ended."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from werkzeug.serving import run_simple

    os.environ["MOTO_PORT"] = str(port)
    app = one_at_a_time(DomainDispatcherApplication(create_backend_app))
    run_simple("127.0.0.1", port, app, threaded=True, request_handler=MotoRequestHandler)


if __name__ == "__main__":
    main(int(sys.argv[1]))
