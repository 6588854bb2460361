#!/usr/bin/env python3
"""Holds deploy/observability, the README and the metrics of a running server to each other.

Usage: observability_test.py names|prometheus SERVER CLI SOURCE_DIR

names       every metric that the dashboard, the alert rules and the README's table name is served, and the
            table names every metric that is
prometheus  promtool accepts the metrics, the configuration and the rules, whose tests pass, and a Prometheus
            with the shipped configuration scrapes the server; exits 77 where its package is not installed
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any, Callable

SKIPPED = 77
NAME = re.compile(r"\btessera_[a-z0-9_]+\b")
# What a histogram's samples are called beyond its own name.
HISTOGRAM_SUFFIX = re.compile(r"_(bucket|count|sum)$")


class Server:
    """A tessera-server on free ports, with some requests behind it; stopped on exit, which must be clean."""

    def __init__(self, server: str, cli: str) -> None:
        self.process = subprocess.Popen(
            [server, "--listen=127.0.0.1:0", "--metrics-listen=127.0.0.1:0", "--threads=1", "--shadow-verify=1"],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.metrics = self._read("metrics on ")
        self.address = self._read("listening on ")
        # Random problems on the default backend, each also on the oracle.
        subprocess.run([cli, "verify", "--cases=5", f"--server={self.address}"], check=True, capture_output=True,
                       timeout=120)

    def _read(self, prefix: str) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith(prefix), f"expected '{prefix}ADDRESS', got '{line}'"
        return line[len(prefix):].strip()

    def scrape(self) -> str:
        with urllib.request.urlopen(f"http://{self.metrics}/metrics", timeout=20) as answer:
            return answer.read().decode()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, kind: Any, *_: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout=60)
        assert kind is not None or code == 0, f"the server exited with {code}"


def await_that(what: str, holds: Callable[[], Any], seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while True:
        if result := holds():
            return result
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.1)


def served_names(metrics: str) -> set[str]:
    return {name for name in re.findall(r"^# TYPE (\S+) ", metrics, re.MULTILINE) if name.startswith("tessera_")}


def base(name: str, served: set[str]) -> str:
    return name if name in served else HISTOGRAM_SUFFIX.sub("", name)


def queries(node: Any) -> list[str]:
    """The PromQL in a dashboard: panel targets, and queries of its variables."""
    if isinstance(node, list):
        return [query for child in node for query in queries(child)]
    if not isinstance(node, dict):
        return []
    found = [node[key] for key in ("expr", "query") if isinstance(node.get(key), str) and node.get("query") != "prometheus"]
    return found + [query for child in node.values() for query in queries(child)]


def table_names(readme: str) -> set[str]:
    section = readme.split("\n## Metrics\n", 1)[1].split("\n## ", 1)[0]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    return {name for row in rows for name in NAME.findall(row.split("|")[1])}


def check_names(server: Server, source: Path) -> None:
    served = served_names(server.scrape())
    assert len(served) > 15, served
    observability = source / "deploy/observability"
    dashboard = queries(json.loads((observability / "dashboard.json").read_text()))
    assert len(dashboard) > 15, dashboard
    rules = (observability / "alerts.yml").read_text()
    expressions = re.findall(r"expr: (?:>-\n)?((?:.+\n)(?:          .+\n)*)", rules)
    assert len(expressions) == rules.count("- alert:"), expressions
    for origin, texts in (("the dashboard", dashboard), ("the alert rules", expressions)):
        for text in texts:
            names = NAME.findall(text)
            assert names or "up{" in text, f"{origin}: no metric in {text!r}"
            for name in names:
                assert base(name, served) in served, f"{origin}: {name} is not served; served: {sorted(served)}"
    described = table_names((source / "README.md").read_text())
    assert described == served, f"README's table and the server differ in {sorted(described ^ served)}"
    print(f"{len(served)} metrics; {len(dashboard)} queries and {len(expressions)} rules name no other")


def promtool(*arguments: str, **options: Any) -> None:
    result = subprocess.run(["promtool", *arguments], capture_output=True, text=True, timeout=60, **options)
    output = result.stdout + result.stderr
    print(output)
    # `check metrics` prints what it would have otherwise, and exits with 3 or, in old versions, 0.
    complaints = [line for line in output.splitlines() if line.startswith("tessera_")]
    assert result.returncode == 0 and not complaints, f"promtool {' '.join(arguments)}: {result.returncode}"


class Prometheus:
    """A Prometheus with the shipped configuration, but for its target and its pace."""

    def __init__(self, observability: Path, target: str, work: Path) -> None:
        text = (observability / "prometheus.yml").read_text()
        assert "127.0.0.1:9464" in text
        text = text.replace("127.0.0.1:9464", target).replace("interval: 10s", "interval: 1s")
        text = text.replace("alerts.yml", str(observability / "alerts.yml"))
        (work / "prometheus.yml").write_text(text)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{probe.getsockname()[1]}"
        self.log = work / "prometheus.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                ["prometheus", f"--config.file={work}/prometheus.yml", f"--storage.tsdb.path={work}/data",
                 f"--web.listen-address={self.address}"], stdout=log, stderr=log, cwd=work)

    def query(self, expression: str) -> list[Any]:
        url = f"http://{self.address}/api/v1/query?" + urllib.parse.urlencode({"query": expression})
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return json.load(answer)["data"]["result"]
        except (urllib.error.URLError, ConnectionError):
            assert self.process.poll() is None, self.log.read_text()
            return []

    def alerts(self) -> list[str]:
        with urllib.request.urlopen(f"http://{self.address}/api/v1/rules", timeout=10) as answer:
            groups = json.load(answer)["data"]["groups"]
        return [rule["health"] for group in groups for rule in group["rules"]]

    def __enter__(self) -> Prometheus:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(timeout=60)


def value(result: list[Any]) -> float:
    return float(result[0]["value"][1]) if result else 0.0


def check_prometheus(server: Server, source: Path) -> int:
    missing = [name for name in ("prometheus", "promtool") if shutil.which(name) is None]
    if missing:
        print(f"skipped: {' and '.join(missing)} not found; install the package prometheus")
        return SKIPPED
    observability = source / "deploy/observability"
    promtool("check", "metrics", input=server.scrape())
    promtool("check", "config", str(observability / "prometheus.yml"))
    promtool("check", "rules", str(observability / "alerts.yml"))
    promtool("test", "rules", "alerts_test.yml", cwd=observability)
    with tempfile.TemporaryDirectory() as work, Prometheus(observability, server.metrics, Path(work)) as prometheus:
        fused = 'sum(tessera_requests_total{job="tessera",backend="cpu_fused",code="OK"})'
        await_that("five requests scraped", lambda: value(prometheus.query(fused)) == 5)
        await_that("the target is up", lambda: value(prometheus.query('up{job="tessera"}')) == 1)
        verified = 'sum(tessera_shadow_requests_total{result="verified"})'
        await_that("the five are verified", lambda: value(prometheus.query(verified)) == 5)
        errors = prometheus.query('max(tessera_shadow_relative_error_max{backend="cpu_fused"})')
        assert 0 < value(errors) < 0.1, errors
        p99 = ("histogram_quantile(0.99, sum by (le) "
               '(tessera_request_duration_seconds_bucket{backend="cpu_fused",phase="total"}))')
        assert value(prometheus.query(p99)) > 0, prometheus.query(p99)
        await_that("all rules are evaluated", lambda: set(prometheus.alerts()) == {"ok"})
        assert not prometheus.query('ALERTS{alertstate="firing"}'), prometheus.query("ALERTS")
    return 0


def main(mode: str, binary: str, cli: str, source: str) -> int:
    with Server(binary, cli) as server:
        if mode == "names":
            check_names(server, Path(source))
            return 0
        return check_prometheus(server, Path(source))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
