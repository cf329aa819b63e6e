"""Inputs that are not files: a bucket, and a dataset."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from llmpipe.core.console import Console
from llmpipe.core.errors import InputError
from llmpipe.core.stage import Request, plan_stage, run_stage
from llmpipe.stages.data.config import DataConfig
from llmpipe.stages.data.stage import SPEC


def build(final: Path, *inputs: str) -> list[str]:
    config = DataConfig(inputs=inputs, steps=("exact_dedup",))
    corpus = run_stage(plan_stage(Request(SPEC, config, final)), Console(quiet=True))
    table = pq.read_table(corpus.file("part-00000.parquet"))
    return sorted(table["text"].to_pylist())


def lines(*texts: str) -> bytes:
    return b"".join(json.dumps({"text": text}).encode() + b"\n" for text in texts)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A bucket on a server on loopback that speaks S3."""
    server_module = pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    import boto3

    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    client.create_bucket(Bucket="texts")
    try:
        yield lambda key, body: client.put_object(Bucket="texts", Key=key, Body=body)
    finally:
        server.stop()


# boto3 warns of the Python versions that it will leave behind; s3fs leaves its session to the collector.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
def test_a_bucket_is_read(tmp_path: Path, bucket: Any) -> None:
    bucket("a.jsonl.gz", gzip.compress(lines("one", "two")))
    bucket("b.jsonl", lines("two", "three"))
    bucket("my.paths.gz", gzip.compress(b"s3://texts/b.jsonl\ns3://texts/none.jsonl\n"))
    found = build(tmp_path / "corpus", "s3://texts/a.jsonl.gz", "s3://texts/my.paths.gz#0:1")
    assert found == ["one", "three", "two"]

    bucket("b.jsonl", lines("four"))  # another content is another fingerprint
    plan = plan_stage(
        Request(
            SPEC,
            DataConfig(
                inputs=("s3://texts/a.jsonl.gz", "s3://texts/my.paths.gz#0:1"),
                steps=("exact_dedup",),
            ),
            tmp_path / "corpus",
        )
    )
    assert plan.status == "differs"
    with pytest.raises(InputError, match=r"s3://texts/none\.jsonl"):
        build(tmp_path / "other", "s3://texts/my.paths.gz")


@pytest.mark.slow
def test_a_folder_of_a_dataset_is_read_by_name_and_content(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.jsonl").write_bytes(lines("one", "two", "one"))
    name = f"hf:{tmp_path / 'set'}"
    assert build(tmp_path / "corpus", name) == ["one", "two"]
    (tmp_path / "set" / "train.jsonl").write_bytes(lines("three"))
    assert build(tmp_path / "again", name) == ["three"]
