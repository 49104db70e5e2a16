"""Who can reach the live explorer, and what its end leaves behind: the real server, and the real requests."""

import asyncio
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

pytest.importorskip("voila", reason="needs Voila: pip install voila")
psutil = pytest.importorskip("psutil", reason="needs psutil, which comes with Jupyter")

NO_KERNEL = "00000000-0000-0000-0000-000000000000"
FOREIGN = "evil.example"
ENDS = [signal.SIGHUP, signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]


class Served:
    """The command `explore` with the process of the server, as soon as the server listens."""

    def __init__(self, temporary, *options, **environment):
        with socket.socket() as probe:
            probe.bind(("localhost", 0))
            self.port = probe.getsockname()[1]
        command = [sys.executable, "-m", "bioshare", "explore", "--port", str(self.port), *options]
        environment = {**os.environ, "TMPDIR": str(temporary), **environment}
        self.process = psutil.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        with self.process.stdout as printed:
            self.address = printed.readline().split()[4]
        self.root, self.token = self.address.split("?token=")
        self.folder = temporary

    def wait(self):
        until(lambda: self.listens() or self.process.poll() is not None)
        assert self.process.poll() is None
        return self

    def listens(self):
        with socket.socket() as probe:
            return probe.connect_ex(("localhost", self.port)) == 0

    def processes(self):
        return self.process.children(recursive=True)

    def kernels(self):
        return [child.pid for child in self.processes() if "ipykernel_launcher" in child.cmdline()]

    def get(self, path="", data=None, **headers):
        """Status, final address and text of a request."""
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(urllib.parse.urljoin(self.root, path), data, names)
        try:
            with urllib.request.urlopen(request, timeout=120) as response:
                return response.status, response.url, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.url, error.read().decode()

    def cookie(self):
        """The cookie of a browser that has opened the page."""
        request = urllib.request.Request(f"{self.root}api/kernels/{NO_KERNEL}?token={self.token}")
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(request)
        error.value.close()
        cookie = error.value.headers["Set-Cookie"]
        assert "SameSite=Strict" in cookie
        assert "HttpOnly" in cookie
        return cookie.split(";")[0]

    def websocket(self, query="", kernel=NO_KERNEL, **headers):
        """Status of the handshake with the socket of a kernel."""
        from tornado.httpclient import HTTPClientError, HTTPRequest
        from tornado.websocket import websocket_connect

        url = f"{self.root.replace('http', 'ws')}api/kernels/{kernel}/channels{query}"

        async def connect():
            connection = await websocket_connect(HTTPRequest(url, headers=headers))
            connection.close()
            while await connection.read_message() is not None:
                pass
            return 101

        try:
            return asyncio.run(connect())
        except HTTPClientError as error:
            return error.code


def until(condition):
    for _ in range(1200):
        if condition():
            return
        time.sleep(0.05)
    pytest.fail("it did not happen")


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    served = Served(tmp_path_factory.mktemp("explorer"), "--no-browser").wait()
    yield served
    served.process.send_signal(signal.SIGINT)
    assert served.process.wait(30) == 128 + signal.SIGINT


@pytest.fixture(scope="module")
def cookie(served):
    return served.cookie()


def test_without_the_token_twenty_requests_lead_to_the_login_and_start_no_kernel(served):
    for path in ["", "?token=wrong", "?token=", "tree", "voila/render/bioshare.ipynb"] * 4:
        status, url, text = served.get(path)
        assert (status, "/login?" in url) == (200, True), path
        assert "opens at the address that the command prints" in text
        assert "http" not in text
    assert served.kernels() == []


def test_the_token_may_be_entered_and_no_other_password(served):
    enter = lambda token: served.get("login?next=%2Fapi%2Fstatus", f"password={token}".encode())
    assert "This is not the token." in enter("wrong")[2]
    assert enter("")[0] == 401
    assert enter(served.token)[:2] == (200, f"{served.root}login?next=%2Fapi%2Fstatus")  # again, without the cookie


@pytest.mark.parametrize("path", ["voila/files/bioshare.ipynb", "voila/files/kernels/bioshare/kernel.json"])
def test_no_file_of_the_server_can_be_read(served, path):
    assert served.get(path)[0] == served.get(f"{path}?token={served.token}")[0] == 403


def test_a_name_of_another_site_that_leads_to_this_machine_is_refused_even_with_the_token(served, cookie):
    """DNS rebinding: the name of a foreign page is given the address 127.0.0.1."""
    host = f"{FOREIGN}:{served.port}"
    for path in ("", f"?token={served.token}"):
        assert served.get(path, Host=host)[0] == 403
        assert served.get(path, Host=host, Cookie=cookie)[0] == 403
    assert served.websocket(f"?token={served.token}", Host=host, Origin=f"http://{host}") == 403
    assert served.kernels() == []


@pytest.mark.parametrize("kind", ["image", "iframe", "script", "empty"])
def test_a_picture_of_another_page_starts_no_kernel_although_the_browser_sends_the_cookie(served, cookie, kind):
    """As from another port of localhost, which is the same site to a browser."""
    status, _, text = served.get(Cookie=cookie, Sec_Fetch_Dest=kind)
    assert status == 403
    assert "opens in a tab of its own" in text
    assert "http" not in text.split("</style>")[1]
    assert served.kernels() == []


def test_the_socket_of_a_kernel_needs_the_token(served, cookie):
    origin = served.root.rstrip("/")
    assert served.websocket() == served.websocket(Origin=origin) == served.websocket("?token=wrong") == 403
    assert served.websocket(Cookie=cookie, Origin=origin) == served.websocket(f"?token={served.token}") == 404


def test_only_the_page_itself_may_end_a_kernel(served, cookie):
    path, origin = f"voila/api/shutdown/{NO_KERNEL}", served.root.rstrip("/")
    assert served.get(path, b"", Origin=origin)[0] == 403
    reasons = [json.loads(served.get(path, b"", Cookie=cookie, Origin=o)[2])["message"] for o in (origin, "http://x")]
    assert reasons == [f"Kernel does not exist: {NO_KERNEL}", "Not Found"]


def test_only_this_machine_can_connect_and_the_token_is_in_no_command(served):
    processes = [served.process, *served.processes()]
    listening = [at.laddr.ip for process in processes for at in process.net_connections() if at.status == "LISTEN"]
    assert set(listening) <= {"127.0.0.1", "::1"}
    assert listening
    for process in processes:
        assert not any(served.token in argument for argument in process.cmdline())


def test_the_folder_of_the_server_is_for_the_user_alone(served):
    (folder,) = served.folder.iterdir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_addresses_that_only_this_machine_can_reach():
    from bioshare.explorer.server import is_local

    assert all(map(is_local, ["localhost", "127.0.0.1", "127.9.9.9", "::1"]))
    assert not any(map(is_local, ["0.0.0.0", "::", "192.0.2.1", "", "this.example"]))


@pytest.mark.parametrize(
    "number", [pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGHUP, signal.SIGKILL]
)
def test_the_end_of_the_command_leaves_no_process_port_or_folder(tmp_path, number):
    served = Served(tmp_path, "--no-browser")
    if number == signal.SIGHUP:  # a terminal may be closed at once
        until(served.processes)
    else:
        served.wait()
    ended(served, [served.process.pid], number)


def ended(served, killed, number):
    processes = [served.process, *served.processes()]
    for pid in killed:
        os.kill(pid, number)
    gone, alive = psutil.wait_procs(processes, 60)
    assert (len(gone), alive) == (len(processes), [])
    assert not served.listens()
    assert list(served.folder.iterdir()) == []


def test_the_browser_is_opened_by_a_file_so_that_the_token_is_in_no_command_and_a_killed_server_leaves_no_folder(
    tmp_path,
):
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/part; mv {tmp_path}/part {tmp_path}/opened\n')
    browser.chmod(0o755)
    (tmp_path / "folder").mkdir()
    served = Served(tmp_path / "folder", BROWSER=f"{browser} %s")
    until((tmp_path / "opened").exists)
    opened = (tmp_path / "opened").read_text().strip()
    assert opened.startswith("file://")
    assert f'content="0; url={served.address}"' in Path(urllib.parse.urlparse(opened).path).read_text()
    (server,) = served.processes()
    ended(served, [server.pid], signal.SIGKILL)
    assert served.process.returncode == 1


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such sockets")
def test_nobody_else_can_read_what_a_kernel_publishes():
    """The sockets of a kernel lie in the folder of the user; the one port takes lines from child processes."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        served = Served(Path(folder), "--no-browser").wait()
        assert served.get(f"?token={served.token}")[0] == 200
        (kernel,) = served.kernels()
        (connection,) = (json.loads(file.read_text()) for file in served.folder.rglob("kernel-*.json"))
        assert connection["transport"] == "ipc"
        assert connection["ip"].startswith(folder)
        ports = [one for one in psutil.Process(kernel).net_connections("tcp") if one.status == "LISTEN"]
        assert len(ports) <= 1
        ended(served, [served.process.pid], signal.SIGTERM)


@pytest.mark.slow
def test_a_page_takes_moves_of_its_own_origin_alone_and_ends_with_the_killed_command(tmp_path):
    served = Served(tmp_path, "--no-browser", "--presentations", "100").wait()
    status, _, text = served.get(f"?token={served.token}", Sec_Fetch_Dest="document")
    assert status == 200
    (kernel,) = set(re.findall(r'"kernelId": "([^"]+)"', text))
    assert len(served.kernels()) == 1
    origin, cookie = served.root.rstrip("/"), served.cookie()
    assert served.websocket(kernel=kernel, Cookie=cookie, Origin=origin) == 101
    for foreign in (f"http://{FOREIGN}", f"http://localhost:{served.port + 1}", "null"):
        assert served.websocket(kernel=kernel, Cookie=cookie, Origin=foreign) == 403
    assert served.websocket(kernel=kernel, Origin=origin) == 403
    ended(served, [served.process.pid], signal.SIGKILL)


def test_there_are_only_so_many_kernels_even_if_all_are_asked_for_at_once():
    """The processes are real, but do nothing, since a kernel takes 420 MB."""
    from jupyter_client.kernelspec import KernelSpecManager

    from bioshare.explorer.server import FewKernels

    with tempfile.TemporaryDirectory() as folder:
        spec = Path(folder, "kernels", "idle", "kernel.json")
        spec.parent.mkdir(parents=True)
        argv = [sys.executable, "-c", "import time; time.sleep(600)", "{connection_file}"]
        spec.write_text(json.dumps({"argv": argv, "display_name": "idle", "language": "python"}))
        specs = KernelSpecManager(kernel_dirs=[str(spec.parents[1])])
        refused = asyncio.run(ask_for_kernels(FewKernels(most=2, connection_dir=folder, kernel_spec_manager=specs)))
    assert [(error.status_code, "2 pages are open" in error.log_message) for error in refused] == [(503, True)] * 4


async def ask_for_kernels(manager):
    """Start six at once, then one more in the place of one that is closed; return the errors."""
    from tornado.web import HTTPError

    start = lambda: manager.start_kernel(kernel_name="idle")
    try:
        begun = await asyncio.gather(*(start() for _ in range(6)), return_exceptions=True)
        assert len(manager) == 2
        await manager.shutdown_kernel(manager.list_kernel_ids()[0], now=True)
        assert await start() in manager
        return [error for error in begun if isinstance(error, HTTPError)]
    finally:
        await manager.shutdown_all(now=True)
