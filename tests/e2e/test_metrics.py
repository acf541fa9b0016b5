"""/metrics as Prometheus' own tool wants it: our check of it, that the check sees each fault, and the tool itself where it is installed."""

import shutil
import subprocess

import pytest

import appliance
import native
import prometheus
from feed_drivers import SUBSCRIBE, field
from native import MESSAGE, next_request, request

PUBLISH, PUBLISH_MANY = 3, 4


@pytest.fixture
def metrics(daemon):
    """The page of a daemon on which everything that has series of its own is in use."""
    d = daemon(SHARDS=2, COUNT_MAX=999, HANDLER_THREADS=0)
    with native.Client(d) as c, native.Client(d) as reader:
        c.send(request(1, next_request("orders")) + request(2, next_request(count=1000)) + request(3, b"\xff") + request(4, method=99) +
               request(5, field(1, b'a"b\\c') + field(3, b"x"), method=PUBLISH) + request(6, field(1, b"late") + field(2, 5), method=PUBLISH) +
               request(7, field(1, b"late") + field(2, 4), method=PUBLISH))
        for _ in range(7):
            assert c.get() is not None
        reader.send(request(1, field(1, b"late"), method=SUBSCRIBE))
        assert reader.get().kind == MESSAGE
        appliance.tool("next", "--server", d.address, "--protocol", "grpc")
        appliance.wait_until(lambda: d.stats()["streams"]["subscribers"] == 1, "the subscriber to be counted")
        status, body = d.get("/metrics")
    assert status == 200
    return body.decode()


def test_metrics_are_clean(metrics):
    """Gauges had a label that is a summary's."""
    assert prometheus.check(metrics) == []
    for part in ('stream="a\\"b\\\\c"', "ordinal_stream_lag_bytes", "ordinal_refusals_total", "ordinal_journal_sync_seconds_bucket", "ordinal_sequence_next"):
        assert part in metrics


def test_promtool_agrees(metrics):
    if not shutil.which("promtool"):
        pytest.skip("promtool (Debian's package prometheus) is not installed")
    done = subprocess.run(["promtool", "check", "metrics"], input=metrics, capture_output=True, text=True, timeout=appliance.PATIENCE_S)
    assert done.returncode == 0 and done.stdout + done.stderr == "", done


GOOD = """# HELP o_x_total Things.
# TYPE o_x_total counter
o_x_total{a="b"} 1
o_x_total{a="c"} 2
# HELP o_t_seconds Times.
# TYPE o_t_seconds histogram
o_t_seconds_bucket{le="1"} 1
o_t_seconds_bucket{le="+Inf"} 2
o_t_seconds_sum 3
o_t_seconds_count 2
# HELP o_g Now.
# TYPE o_g gauge
o_g -1.5
"""


def test_the_check_is_content_with_what_is_right():
    assert prometheus.check(GOOD) == []


@pytest.mark.parametrize("before, after", [
    ('o_g -1.5', 'o_g{quantile="0.5"} 1'), ('o_g -1.5', 'o_g{le="1"} 1'), ("o_g -1.5", "o_g one"), ("o_g -1.5", "o_g 1\no_g 2"),
    ("o_g -1.5\n", "o_g -1.5"), ("o_g", "o_g_total"), ("o_g", "o_g_count"), ("o_g", "o_g_milliseconds"), ("o_g", "o_g_ms"), ("o_g", "o:g"), ("o_g", "oG"),
    ("o_g", "o_gauge"), ("# HELP o_g Now.\n", ""), ("# HELP o_g Now.", "# HELP o_g "), ("# TYPE o_g gauge\n", ""), ("o_g gauge", "o_g gage"),
    ("o_x_total", "o_x"), ('a="c"', 'a="b"'), ('a="c"', 'a="c'), ('a="c"', 'a="\\c"'), ('a="c"', 'a="c",a="d"'), ('{a="c"} 2', '{a="c"} -2'),
    ("o_t_seconds_sum 3\n", ""), ("o_t_seconds_count 2", "o_t_seconds_count 3"), ('o_t_seconds_bucket{le="+Inf"} 2\n', ""),
    ('{le="+Inf"} 2', '{le="+Inf"} 0'), ('{le="1"} 1', '{le="one"} 1'),
    ("# HELP o_g Now.", 'o_x_total{a="d"} 2\n# HELP o_g Now.'),
])
def test_the_check_sees_each_fault(before, after):
    assert before in GOOD
    assert prometheus.check(GOOD.replace(before, after)) != []
