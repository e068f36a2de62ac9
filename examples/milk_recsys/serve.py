"""Serve a finished run: lists, audiences, new customers and explanations over HTTP.

    milk-recsys serve --run runs/shop --items new_items
    milk-recsys serve --help

In a checkout `python examples/milk_recsys/serve.py` is the same command.
"""

from __future__ import annotations

import sys
from pathlib import Path

# As a script, this file needs the folder above it on the path to import `milk_recsys`.
if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import dataclasses
import ipaddress
import os
import socket
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated

import tyro

from milk_recsys.base.errors import DataError, plural
from milk_recsys.base.manual import parse

if TYPE_CHECKING:
    from milk_recsys.serving.service import Service

__all__ = ["ServeOptions", "main", "open_service", "serve"]

TOKEN = "MILK_RECSYS_TOKEN"
MAX_PORT = 65_535
MIN_TOKEN = 16  # Number of characters.


@dataclasses.dataclass(frozen=True)
class ServeOptions:
    """Answer requests for lists over HTTP.

        milk-recsys serve --run runs/shop --items new_items

    The answers are those of recommend. Neither paths nor bodies of requests are logged. The schema
    of all requests is at /openapi.json.

    Arguments:
        run: Folder of a finished run (--out of the command train).
        items: Folder of new items, as for recommend. More can be added at run time.
        host: Address to listen on. Every address but a loopback one needs a token.
        port: Port to listen on; 0 for a free one.
        token_file: File with the token that requests must bring as "Authorization: Bearer TOKEN".
            Without it the token is taken from the environment variable MILK_RECSYS_TOKEN.
        max_users: Maximum number of users of a request.
        max_top: Maximum length of a list.
        max_items: Maximum number of new items.
        max_bytes: Maximum size of the body of a request.
        max_connections: Maximum number of connections; more are refused with status 503.
        threads: Number of CPU threads of matrix products.
    """

    run: Path
    items: Annotated[Path | None, tyro.conf.arg(help_behavior_hint="(default: none)")] = None
    host: str = "127.0.0.1"
    port: int = 8000
    token_file: Annotated[Path | None, tyro.conf.arg(help_behavior_hint="(default: none)")] = None
    max_users: int = 1000
    max_top: int = 1000
    max_items: int = 1_000_000
    max_bytes: int = 8 * 2**20
    max_connections: int = 1000
    threads: int = 1


def main(argv: Sequence[str] | None = None, *, prog: str = "serve.py") -> int:
    """Run the command line.

    Returns:
        The exit status: 0 after an interruption or a signal to end, 2 for invalid input. (Options
        that cannot be parsed exit with status 2 at once.)
    """
    options = parse(ServeOptions, argv, prog=prog, page="serve")
    try:
        serve(options)
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 0
    return 0


def serve(options: ServeOptions, log: Callable[[str], None] = print) -> None:
    """Open the run, and answer requests until the process is told to end.

    Raises:
        DataError: an option, the run or the items cannot be used, or the address is taken.
    """
    missing = [name for name in ("fastapi", "uvicorn") if find_spec(name) is None]
    if missing:
        raise DataError(
            f"serve needs {' and '.join(missing)}, which is not installed: "
            "pip install 'invmod[serve]'"
        )
    for name in ("max_users", "max_top", "max_items", "max_bytes", "max_connections", "threads"):
        if getattr(options, name) < 1:
            flag = name.replace("_", "-")
            raise DataError(f"--{flag} must be at least 1, got {getattr(options, name)}.")
    if not 0 <= options.port <= MAX_PORT:
        raise DataError(f"--port must be from 0 to {MAX_PORT}, got {options.port}.")
    token = _token(options)
    # torch takes seconds to import, so options are checked before.
    import torch
    import uvicorn

    from milk_recsys.serving.app import make_app
    from milk_recsys.serving.schemas import Limits

    torch.set_num_threads(options.threads)
    service = open_service(options.run, options.items, options.max_items, log)
    limits = Limits(k=options.max_top, users=options.max_users)
    app = make_app(service, token=token, limits=limits, max_bytes=options.max_bytes)
    with _listening(options.host, options.port) as listener:
        host, port = listener.getsockname()[:2]
        items = plural(len(service.shelf.snapshot.names), "new item", "new items")
        model = service.fitted.options.run.model
        address = f"[{host}]" if ":" in host else host
        log(f"serving {model} with {items} at http://{address}:{port}; Ctrl-C ends it")
        config = uvicorn.Config(
            app,
            access_log=False,
            log_level="warning",
            limit_concurrency=options.max_connections,
            server_header=False,
        )
        uvicorn.Server(config).run(sockets=[listener])


def open_service(
    run: Path, items: Path | None, max_items: int, log: Callable[[str], None] = print
) -> Service:
    """Open a run and a folder of new items for serving, on the CPU.

    Raises:
        DataError: the run or the folder cannot be used.
    """
    from milk_recsys.estimator.files import open_fitted
    from milk_recsys.exporting.catalogue import read_folder
    from milk_recsys.serving.service import Service

    fitted, _ = open_fitted(run, "cpu")
    new, notes = read_folder(fitted, items)
    for note in notes:
        log(f"note: {note}")
    if len(new.ids) > max_items:
        raise DataError(f"--items: {items} has {len(new.ids)} items. Raise --max-items.")
    return Service(fitted, new, max_items)


def _token(options: ServeOptions) -> str | None:
    """Return the token, or None for a loopback address without one."""
    token, source = os.environ.get(TOKEN), TOKEN
    if options.token_file is not None:
        source = f"--token-file: {options.token_file}"
        try:
            token = options.token_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeError) as error:
            raise DataError(f"{source}: cannot be read ({error}).") from None
    if token is None:
        if not _is_loopback(options.host):
            raise DataError(
                f"--host {options.host} can be reached from other machines, so a token is needed. "
                f"Give --token-file, or set {TOKEN}."
            )
        return None
    if len(token) < MIN_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise DataError(
            f"{source}: the token must have at least {MIN_TOKEN} visible ASCII characters, for "
            "example the output of: openssl rand -hex 32"
        )
    return token


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"--host {host} --port {port}: cannot be listened on ({reason}).") from None
    # Connections inherit this. asyncio sets it only for sockets that name their protocol, and
    # without it the body of an answer waits 40 ms for the client to acknowledge the header.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


if __name__ == "__main__":
    sys.exit(main())
