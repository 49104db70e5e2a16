"""Schedulers of Dask, ports that are none, and ends of both; all processes and sockets are real."""

import http.server
import os
import re
import shutil
import signal
import socketserver
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import xarray as xr
from dask import config as dask_config

from bioshare.train import dask_workers
from bioshare.train.config import TrainConfig
from bioshare.train.runs import Job, run_all


def one_job(folder):
    return [Job("run", TrainConfig(), folder / "run")]


def at_once(config, folder, **options):
    return xr.Dataset({"top1": ("epoch", [1.0])})


def endless(config, folder, **options):
    folder.mkdir(parents=True)
    time.sleep(1000)
    return at_once(config, folder)


class Mute(socketserver.BaseRequestHandler):
    """Says nothing until the other end hangs up."""

    def handle(self):
        while self.request.recv(1000):
            pass


class NotFound(http.server.BaseHTTPRequestHandler):
    def log_message(self, format, *arguments):
        pass


@contextmanager
def serving(handler):
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"tcp://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("handler", [Mute, NotFound])
def test_a_port_that_is_no_scheduler_is_refused_in_the_time_that_is_meant(handler, tmp_path, monkeypatch):
    monkeypatch.setattr(dask_workers, "CONNECT", 0.5)
    message = r"scheduler must be the address .* does not answer as a scheduler within 0.5 s"
    with serving(handler) as address, pytest.raises(ValueError, match=message):
        run_all(one_job(tmp_path), at_once, scheduler=address, progress=False)


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "tls://127.0.0.1:9", "carrier-pigeon://x:1", "", "/x/y"])
def test_an_address_where_nothing_is_or_can_be_is_refused(address, tmp_path, monkeypatch):
    monkeypatch.setattr(dask_workers, "CONNECT", 0.2)
    with pytest.raises(ValueError, match=f"scheduler must be the address .* got {address!r}"):
        run_all(one_job(tmp_path), at_once, scheduler=address, progress=False)


@contextmanager
def dask(*words):
    """A process of Dask's command line, and the first line with an address, killed at the end."""
    command = [sys.executable, "-m", "dask", *words, "--host", "127.0.0.1"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        try:
            address = next(found[1] for line in process.stderr if (found := re.search(r" at:\s+(tcp://\S+)", line)))
            threading.Thread(target=process.stderr.read, daemon=True).start()
            yield process, address
        finally:
            process.kill()


def kill_once(process, begun):
    """Kill a process as soon as a folder is there."""

    def wait_and_kill():
        while not begun.exists():
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)

    thread = threading.Thread(target=wait_and_kill, daemon=True)
    thread.start()


def test_workers_and_a_scheduler_that_are_gone_for_good_are_a_line_each(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(dask_workers, "LOOK", 0.05)
    monkeypatch.setattr(dask_workers, "PATIENCE", 0.3)
    with ExitStack() as stack:
        scheduler, address = stack.enter_context(dask("scheduler", "--port", "0", "--no-dashboard"))
        options = ("--nthreads", "1", "--no-nanny", "--no-dashboard")
        for gone in ("worker", "scheduler"):
            worker, worker_address = stack.enter_context(dask("worker", address, *options))
            if gone == "worker":
                with pytest.raises(ValueError, match="does not answer as a scheduler"):
                    run_all(one_job(tmp_path), at_once, scheduler=worker_address, progress=False)
                message = f"{address} has had no worker for 0.3 s. Start workers; the same command goes on"
            else:
                message = f"the scheduler {address} is gone. Start it and its workers again; the same command goes on"
            kill_once(worker if gone == "worker" else scheduler, tmp_path / gone / "run")
            with pytest.raises(ConnectionError, match=message):
                run_all(one_job(tmp_path / gone), endless, scheduler=address, progress=False)
    shown = capfd.readouterr().err
    assert shown.count(f"warning: whoever reaches {address} can run programs as you") == 2
    assert shown.count(f"{address} has no worker; waiting for one, at most 0.3 s") == 1
    assert (
        dask_config.get("scheduler", None) is None
    )  # computations of the program do not go to a scheduler that is gone


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_a_scheduler_with_tls_is_reached_with_the_credentials_of_dask_s_configuration_only(
    tmp_path, monkeypatch, capfd
):
    from dask import config
    from distributed import LocalCluster
    from distributed.security import Security

    monkeypatch.setattr(dask_workers, "CONNECT", 5.0)
    words = (
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout key -out cert -days 2 -subj /CN=a"
    )
    subprocess.run(["openssl", *words.split()], cwd=tmp_path, check=True, capture_output=True)
    key, cert = str(tmp_path / "key"), str(tmp_path / "cert")
    ours = {
        f"tls_{role}_{part}": file
        for role in ("scheduler", "worker", "client")
        for part, file in (("key", key), ("cert", cert))
    }
    quiet = {"threads_per_worker": 1, "processes": False, "dashboard_address": "localhost:0"}
    credentials = Security(require_encryption=True, tls_ca_file=cert, **ours)
    with LocalCluster(n_workers=1, security=credentials, protocol="tls://", **quiet) as cluster:
        call = lambda: run_all(one_job(tmp_path), at_once, scheduler=str(cluster.scheduler_address), progress=False)
        with pytest.raises(ValueError, match=r"does not answer as a scheduler .*TLS"):
            call()
        with config.set(
            {f"distributed.comm.tls.{name}": cert for name in ("ca-file", "client.cert")}
            | {"distributed.comm.tls.client.key": key}
        ):
            assert list(call().results) == ["run"]
    assert "warning" not in capfd.readouterr().err
