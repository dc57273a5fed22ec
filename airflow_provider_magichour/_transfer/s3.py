"""
Objects in S3 with boto3 and the client of Airflow's S3 hook. The parts of a file are uploaded in parallel.

The file system s3fs uploads the parts of a file one after the other, with one thread for all files.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from threading import Semaphore
from typing import Any
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

from airflow_provider_magichour._transfer.responses import InterruptedDownloadError
from airflow_provider_magichour._transfer.storage import S3_EXPRESS, Storage
from airflow_provider_magichour._transfer.storage_errors import storage_error
from airflow_provider_magichour.exceptions import MagicHourArgumentError

log = logging.getLogger(__name__)

#: How many parts of all files of a task are uploaded at once. This limits the memory.
UPLOADS = 10
#: The most open connections.
CONNECTIONS = 256
#: Arguments of PutObject that a bucket's policy may require. The catalogue's objects have them as well.
_OF_ALL_OBJECTS = (
    "ACL",
    "ServerSideEncryption",
    "SSEKMSKeyId",
    "SSEKMSEncryptionContext",
    "BucketKeyEnabled",
)

#: The first letters of arguments that are not tried: a lock keeps the object, and a condition depends on what
#: is stored.
_NOT_TRIED = ("ObjectLock", "IfMatch", "IfNoneMatch")
#: The first letters of the error codes that an argument causes. Other errors of KMS pass, such as throttling.
_ARGUMENT_ERRORS = (
    "InvalidStorageClass",
    "InvalidTag",
    "InvalidEncryption",
    "MalformedACL",
    "AccessControlListNotSupported",
    "KMS.NotFoundException",
    "KMS.DisabledException",
    "KMS.InvalidKeyUsageException",
)
#: Codes that blame an argument, or the whole request, such as its signature.
_UNCLEAR_ERRORS = frozenset({"InvalidArgument", "InvalidRequest"})


class S3:
    """
    Upload objects to a bucket.

    :param open_args: arguments of PutObject for all objects.
    """

    def __init__(self, client: Any, open_args: Mapping[str, Any]) -> None:
        self.client = client
        self._inputs = {
            name: set(client.meta.service_model.operation_model(name).input_shape.members)
            for name in ("PutObject", "CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload")
        }
        self._open_args = {"ACL" if name == "acl" else name: value for name, value in open_args.items()}
        if unknown := sorted(set(self._open_args) - self._inputs["PutObject"]):
            raise MagicHourArgumentError(
                f"open_args has {', '.join(unknown)}, which S3 does not accept: use those of its PutObject, "
                "such as ServerSideEncryption, SSEKMSKeyId, ACL, StorageClass, Tagging or Metadata"
            )
        self.executor = ThreadPoolExecutor(UPLOADS, "magichour-part")
        self.slots = Semaphore(UPLOADS)

    def serve(self, *storages: Storage) -> None:
        """Let storages on the same file system send their small requests with boto3, too."""
        fs = storages[0].fs
        for storage in storages:
            if storage.fs is fs:
                storage.fs = _SmallRequests(fs, self)

    def try_arguments(self, path: str) -> None:
        """
        Write a small object with the arguments of all objects, without those that depend on stored objects.

        :raises MagicHourArgumentError: if S3 does not accept their values.
        """
        from botocore.exceptions import (  # type: ignore[import-untyped]
            ClientError,
            ParamValidationError,
        )

        bucket, _, key = path.partition("/")
        given = self.arguments("PutObject", "", {})
        arguments = {name: value for name, value in given.items() if not name.startswith(_NOT_TRIED)}
        try:
            self.client.put_object(Bucket=bucket, Key=key, Body=b"{}", **arguments)
        except ParamValidationError as error:
            raise MagicHourArgumentError(f"open_args has a value that S3 does not accept: {error}") from error
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            if code in _UNCLEAR_ERRORS:
                try:
                    self.client.put_object(Bucket=bucket, Key=key, Body=b"{}")
                except Exception:  # noqa: BLE001 - whatever it is, the arguments are not to blame for it
                    raise error from None
            elif not code.startswith(_ARGUMENT_ERRORS):
                raise
            lists = [name for name in arguments if name == "ACL" or name.startswith("Grant")]
            cause = f"{', '.join(lists)}: " if code == "AccessControlListNotSupported" else ""
            raise MagicHourArgumentError(
                f"open_args has a value that S3 does not accept: {cause}{error}"
            ) from error

    def absent(self, folder: str, names: Sequence[str]) -> set[str]:
        """
        Return the names without objects below them, as far as one list shows.

        :param folder: the folder of the names, with its bucket.
        """
        bucket, _, key = folder.partition("/")
        if bucket.endswith(S3_EXPRESS):
            return set()
        prefix = f"{key}/" if key else ""
        page = self.client.list_objects_v2(
            Bucket=bucket, Prefix=prefix, Delimiter="/", StartAfter=f"{prefix}{min(names)}"
        )
        folders = [one["Prefix"] for one in page.get("CommonPrefixes", ())]
        keys = [one["Key"] for one in page.get("Contents", ())]
        present = set(folders)
        absent = {name for name in names if f"{prefix}{name}/" not in present}
        if not page.get("IsTruncated"):
            return absent
        if folders != sorted(folders) or keys != sorted(keys):
            return set()
        last = max([*folders, *keys], default="")
        return {name for name in absent if f"{prefix}{name}/" < last}

    def close(self) -> None:
        """End the threads."""
        self.executor.shutdown(wait=False, cancel_futures=True)

    def arguments(self, operation: str, content_type: str, metadata: Mapping[str, str]) -> dict[str, Any]:
        """Return the arguments of an object that one of S3's operations accepts."""
        own = {"ContentType": content_type} if content_type else {}
        arguments = {**own, **self._open_args}
        arguments["Metadata"] = {**metadata, **(self._open_args.get("Metadata") or {})}
        return {name: value for name, value in arguments.items() if name in self._inputs[operation]}


#: By file system, which Airflow keeps during the whole process. Creating a client takes 0.1 s of CPU.
_clients: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()


def open_s3(storage: Storage, open_args: Mapping[str, Any]) -> S3 | None:
    """
    Return the uploader of a destination's bucket, or None if it is not Airflow's own S3 file system.

    :raises MagicHourArgumentError: if ``open_args`` has a name that S3 does not accept.
    :raises MagicHourDownloadError: if the connection cannot be used.
    """
    options = getattr(storage.fs, "storage_options", {})
    unsigned = options.get("anon") or (options.get("config_kwargs") or {}).get("signature_version")
    if storage.protocol not in {"s3", "s3a", "s3n"} or "session" not in options or unsigned:
        return None  # attached by hand, anonymous, or with its own signer: only s3fs can use it
    if storage.fs not in _clients:
        conn_id = urlsplit(storage.shown("")).netloc.rpartition("@")[0] or None
        try:
            _clients[storage.fs] = _make_client(conn_id)
        except Exception as error:
            raise storage_error(error, storage.shown("")) from error
    return S3(_clients[storage.fs], open_args)


def _make_client(conn_id: str | None) -> Any:
    from airflow.providers.amazon.aws.hooks.s3 import S3Hook
    from botocore.config import Config  # type: ignore[import-untyped]

    hook = S3Hook(aws_conn_id=conn_id)
    # Not get_conn(), which reads the source of the whole call stack to name its caller (0.1 s of CPU).
    return hook.get_session(hook.region_name).client(
        "s3",
        endpoint_url=hook.conn_config.get_service_endpoint_url("s3"),
        config=hook.config.merge(Config(max_pool_connections=CONNECTIONS)),
        verify=hook.verify,
    )


class _SmallRequests:
    """
    An s3fs that sends small requests with boto3, in the caller's thread.

    s3fs itself sends them all in one thread, and needs six times as much CPU time for each.
    """

    def __init__(self, fs: Any, s3: S3) -> None:
        self._fs = fs
        self._s3 = s3
        given = s3.arguments("PutObject", "", {})
        self._arguments = {name: given[name] for name in _OF_ALL_OBJECTS if name in given}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._fs, name)

    def call_s3(self, method: str, **arguments: Any) -> Any:
        """Send one of S3's calls."""
        with translated_errors():
            return getattr(self._s3.client, method)(**arguments)

    def pipe_file(self, path: str, data: bytes) -> None:
        """Write a small object."""
        bucket, _, key = path.partition("/")
        self.call_s3("put_object", Bucket=bucket, Key=key, Body=data, **self._arguments)


class SmallObject:
    """An object that is written with one request."""

    def __init__(self, s3: S3, path: str, content_type: str) -> None:
        self._s3 = s3
        self._content_type = content_type
        bucket, _, key = path.partition("/")
        self._object = {"Bucket": bucket, "Key": key}

    def put(self, part: bytes) -> None:
        """Raise an error, because there is only one part, the last one."""
        raise NotImplementedError

    def finish(self, last: bytes, metadata: Mapping[str, str]) -> None:
        """Write the object."""
        arguments = self._s3.arguments("PutObject", self._content_type, metadata)
        with translated_errors():
            self._s3.client.put_object(**self._object, Body=last, **arguments)

    def abort(self) -> None:
        """Do nothing, because the object is complete or does not exist."""


class MultipartUpload:
    """
    An object whose parts are uploaded in parallel.

    :param abort_others: whether to abort the unfinished uploads of the same object from killed tries, which
        S3 charges for. If another task writes the object at the same time, it notices this and starts again.
    """

    def __init__(
        self, s3: S3, path: str, content_type: str, metadata: Mapping[str, str], *, abort_others: bool
    ) -> None:
        self._s3 = s3
        bucket, _, key = path.partition("/")
        self._object = {"Bucket": bucket, "Key": key}
        self._parts: list[Future[dict[str, Any]]] = []
        self._part_arguments = s3.arguments("UploadPart", "", {})
        if abort_others:
            self._abort_others()
        arguments = s3.arguments("CreateMultipartUpload", content_type, metadata)
        with translated_errors():
            self._id = s3.client.create_multipart_upload(**self._object, **arguments)["UploadId"]

    def _abort_others(self) -> None:
        bucket, key = self._object["Bucket"], self._object["Key"]
        try:
            found = self._s3.client.list_multipart_uploads(Bucket=bucket, Prefix=key)
            for one in found.get("Uploads", []):
                if one["Key"] == key:
                    log.info("Aborting the upload of %s that an earlier try left unfinished", key)
                    self._s3.client.abort_multipart_upload(**self._object, UploadId=one["UploadId"])
        except Exception as error:  # noqa: BLE001 - the right to list or to abort may be missing
            log.debug("Unfinished uploads of %s cannot be aborted: %s", key, type(error).__name__)

    def put(self, part: bytes) -> None:
        for one in self._parts:
            if one.done():
                one.result()
        self._s3.slots.acquire()
        try:
            one = self._s3.executor.submit(self._send, len(self._parts) + 1, part)
        except BaseException:
            self._s3.slots.release()
            raise
        one.add_done_callback(lambda _: self._s3.slots.release())
        self._parts.append(one)

    def _send(self, number: int, part: bytes) -> dict[str, Any]:
        with translated_errors():
            sent = self._s3.client.upload_part(
                **self._object, UploadId=self._id, PartNumber=number, Body=part, **self._part_arguments
            )
        checksums = {name: value for name, value in sent.items() if name.startswith("Checksum")}
        checksums.pop("ChecksumType", None)
        return {"PartNumber": number, "ETag": sent["ETag"], **checksums}

    def finish(self, last: bytes, metadata: Mapping[str, str]) -> None:
        self.put(last)
        parts = [one.result() for one in self._parts]
        arguments = self._s3.arguments("CompleteMultipartUpload", "", {})
        with translated_errors():
            self._s3.client.complete_multipart_upload(
                **self._object, UploadId=self._id, MultipartUpload={"Parts": parts}, **arguments
            )

    def abort(self) -> None:
        """Abort the upload, and leave no parts behind, which S3 would charge for."""
        wait([one for one in self._parts if not one.cancel()])
        with suppress(Exception):  # if it cannot be aborted, the upload never completes
            self._s3.client.abort_multipart_upload(**self._object, UploadId=self._id)


@contextmanager
def translated_errors() -> Iterator[None]:
    """
    Raise built-in exceptions for S3's errors, as s3fs does.

    :raises InterruptedDownloadError: if the upload does not exist any more, so that the file starts again.
    """
    from botocore.exceptions import ClientError
    from s3fs.errors import translate_boto_error  # type: ignore[import-untyped]

    try:
        yield
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        if code == "NoSuchUpload":
            raise InterruptedDownloadError("another task aborted this upload of the same object") from error
        if "Throttl" in code:  # of KMS, for example
            raise OSError(errno.EBUSY, str(error)) from error
        raise translate_boto_error(error) from error
