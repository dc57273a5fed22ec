"""Turns the errors of stores into errors of this package, with what to do."""

from __future__ import annotations

import errno

from airflow_provider_magichour._client.sanitize import without_query
from airflow_provider_magichour.exceptions import MagicHourDownloadError

#: Without the permission to list (S3: s3:ListBucket), object stores return the same error for a missing
#: object.
_FORBIDDEN = (
    "the worker may not write there, or not read or list: give its user or its connection the right to "
    "write, read and list, or choose another destination"
)
_BUSY = "the store is busy or not available at the moment: run the task again later"
_CURES = {
    errno.EBUSY: _BUSY,
    getattr(errno, "EREMOTEIO", errno.EBUSY): _BUSY,
    errno.ENOSPC: "the disk is full: free space, then run the task again",
    errno.EDQUOT: "the quota is used up: free space, then run the task again",
    errno.EFBIG: "it exceeds the largest file that the worker may write: raise that limit (ulimit -f)",
    errno.EROFS: "the file system is read-only: choose another destination",
    errno.EACCES: _FORBIDDEN,
    errno.EPERM: _FORBIDDEN,
    errno.ENOTDIR: "a file is where a folder is needed: remove it, or choose another destination",
    errno.EEXIST: "a file is where a folder is needed: remove it, or choose another destination",
    errno.EISDIR: "a folder is where the file belongs: remove it, or choose another destination",
    errno.ENAMETOOLONG: "the path is too long: choose a shorter destination",
    errno.ENOENT: "the folder or bucket does not exist: make it first, or check its name",
}

_OTHER = "check that the destination exists, and that the worker or its connection may write there"


def storage_error(error: Exception, shown: str, project_id: str | None = None) -> MagicHourDownloadError:
    """Return the error of this package for a store's error about a path."""
    cure = _CURES.get(_number(error), _OTHER)
    said = without_query(f"{type(error).__name__}: {error}")[:500]
    return MagicHourDownloadError(f"{shown} could not be stored: {said} - {cure}", project_id)


def _number(error: Exception) -> int:
    if isinstance(error, FileNotFoundError):
        return errno.ENOENT
    if isinstance(error, PermissionError):
        return error.errno or errno.EACCES
    return (error.errno or 0) if isinstance(error, OSError) else 0
