"""Proxies that stand before the service: nginx and HAProxy, as their users commonly configure them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from service.dev import processes, servers
from tests.client import eventually
from tests.tools import require_programs

NGINX = """
daemon off;
master_process off;
pid {folder}/pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
    upstream shop {{ server 127.0.0.1:{upstream}; keepalive 1; }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://shop;
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade;
            {more}
        }}
    }}
}}
"""
HAPROXY = """
global
    maxconn 100
defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s
    http-reuse always
frontend all
    bind 127.0.0.1:{port}
    default_backend shop
backend shop
    server shop 127.0.0.1:{upstream} pool-max-conn 1
    {more}
"""


@asynccontextmanager
async def proxy(kind: str, upstream: int, more: str = "") -> AsyncIterator[str]:
    """The URL of a running `nginx` or `haproxy` in front of a port, which shares one connection among its clients."""
    (program,) = require_programs(kind)
    account = servers._account()
    with servers.scratch_folder() as folder:
        own, port = folder / kind, servers.free_port()
        servers._own_folder(own, account)
        configuration = folder / f"{kind}.conf"
        template = NGINX if kind == "nginx" else HAPROXY
        configuration.write_text(template.format(folder=own, port=port, upstream=upstream, more=more))
        configuration.chmod(0o644)
        options = ["-e", "stderr", "-p", own, "-c"] if kind == "nginx" else ["-db", "-f"]
        process = processes.spawn([program, *options, configuration], folder / "log", account=account, folder=own)
        try:

            async def listens() -> bool:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    assert process.poll() is None, processes.tail(folder / "log")
                    return False
                writer.close()
                return True

            await eventually(listens)
            yield f"http://127.0.0.1:{port}"
        finally:
            processes.stop(process)
