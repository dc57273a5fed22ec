"""Uploads: to the simulator, whose storage counts bytes, and to a server that responds as a test says."""

from __future__ import annotations

import io
import random
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, ObjectStoragePath
from fsspec.implementations.memory import MemoryFileSystem

from airflow_provider_magichour._client import retry
from airflow_provider_magichour._transfer import upload
from airflow_provider_magichour.exceptions import MagicHourArgumentError, MagicHourError, MagicHourUploadError
from airflow_provider_magichour.hooks import MagicHourHook
from airflow_provider_magichour.operators import MagicHourUploadOperator
from airflow_provider_magichour.simulator import Simulator
from scripts.local.processes import free_port
from tests.support.scripted_server import Reply, ScriptedServer, Seen, scripted_server
from tests.support.stores import S3Store
from tests.support.tasks import task_context

try:
    from airflow.sdk.io.store import attach
except ImportError:  # Airflow 2
    from airflow.io.store import attach  # type: ignore[no-redef]


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "BACKOFF_FIRST", 0.01)


@pytest.fixture
def face(tmp_path: Path) -> Path:
    path = tmp_path / "my face.png"
    path.write_bytes(bytes(range(256)) * 20_000)
    return path


class Storage:
    """An API and its storage in one server; how it responds to a PUT is up to the test."""

    def __init__(self, server: ScriptedServer) -> None:
        self.server = server
        self.puts: list[Reply] = []
        self.item: dict[str, Any] = {}
        self.asked = 0
        server.respond = self.respond

    def respond(self, seen: Seen) -> Reply:
        if seen.method == "PUT":
            return self.puts.pop(0) if self.puts else Reply()
        self.asked += 1
        item = {
            "upload_url": f"{self.server.url}/bucket/{self.asked}.png?signature=s3cret",
            "expires_at": "2999-01-01T00:00:00Z",
            "file_path": f"api-assets/id/{self.asked}.png",
        }
        return Reply(body={"items": [{**item, **self.item}]})

    def stored(self) -> list[Seen]:
        return [seen for seen in self.server.seen if seen.method == "PUT"]


@pytest.fixture
def storage(connect: Callable[..., str]) -> Iterator[Storage]:
    with scripted_server() as server:
        connect(server.url, "mhk_live_key", timeout=30, max_attempts=3)
        yield Storage(server)


class TestSources:
    def uploaded(self, sim: Simulator, source: Any) -> dict[str, Any]:
        path = MagicHourHook().upload_file(source)
        assert path.startswith("api-assets/")
        found: dict[str, Any] = sim.state()["uploads"][path]
        return found

    def test_local_path_can_be_uploaded(self, sim: Simulator, face: Path) -> None:
        found = self.uploaded(sim, str(face))
        assert found["size"] == face.stat().st_size
        assert (found["type"], found["extension"]) == ("image", "png")
        assert sim.state()["leaked_keys"] == 0

    def test_path_object_can_be_uploaded(self, sim: Simulator, face: Path) -> None:
        assert self.uploaded(sim, face)["size"] == face.stat().st_size

    def test_object_storage_path_can_be_uploaded(self, sim: Simulator, face: Path) -> None:
        assert self.uploaded(sim, ObjectStoragePath(f"file://{face}"))["size"] == face.stat().st_size

    def test_object_storage_url_can_be_uploaded(self, sim: Simulator) -> None:
        attach("memory", fs=MemoryFileSystem())
        MemoryFileSystem().pipe("/bucket/voice.mp3", b"voice")
        assert self.uploaded(sim, "memory://bucket/voice.mp3")["type"] == "audio"

    def test_open_file_is_read_from_its_start_and_left_as_it_was(self, sim: Simulator, face: Path) -> None:
        with face.open("rb") as file:
            file.seek(10)
            assert self.uploaded(sim, file)["size"] == face.stat().st_size
            assert file.tell() == 10

    @pytest.mark.parametrize("there", ["https://host/a.png", "HTTP://host/a.png", "api-assets/id/a.png"])
    def test_urls_that_magic_hour_reads_are_left_alone(self, sim: Simulator, there: str) -> None:
        assert MagicHourHook().upload_file(there) == there
        assert sim.requests() == []

    def test_list_returns_paths_in_order(self, sim: Simulator, tmp_path: Path) -> None:
        paths = [tmp_path / f"{number}.wav" for number in range(9)]
        for number, path in enumerate(paths):
            path.write_bytes(b"x" * (number + 1))
        uploads = MagicHourHook().upload_file([str(path) for path in paths])
        state = sim.state()
        assert [state["uploads"][one]["size"] for one in uploads] == list(range(1, 10))

    def test_at_most_four_uploads_run_at_once(self, sim: Simulator, tmp_path: Path) -> None:
        paths = [tmp_path / f"{number}.wav" for number in range(9)]
        for path in paths:
            path.write_bytes(b"x")
        sim.faults({"match": {"route": "upload"}, "delay": 1})
        MagicHourHook().upload_file([str(path) for path in paths])
        assert sim.state()["in_flight"]["most"] == upload.MAX_PARALLEL

    def test_each_missing_file_of_a_list_is_named(self, sim: Simulator, face: Path, tmp_path: Path) -> None:
        with pytest.raises(MagicHourError, match=r"(?s)gone-1\.png.*gone-2\.png"):
            MagicHourHook().upload_file([tmp_path / "gone-1.png", face, tmp_path / "gone-2.png"])


class TestWrongSources:
    @pytest.mark.parametrize(
        ("make", "said"),
        [
            (lambda folder: folder / "gone.png", "no file"),
            (lambda folder: folder, "folder"),
            (lambda folder: _file(folder / "empty.png", b""), "empty"),
            (lambda folder: _file(folder / "text.txt"), r"\.txt.*It accepts"),
            (lambda folder: _file(folder / "noextension"), "It accepts"),
            (lambda folder: "", "source"),
            (lambda folder: None, "source"),
            (lambda folder: 7, "source"),
            (lambda folder: io.BytesIO(b"x"), "without a name"),
            (lambda folder: "s3:///a.png", "names no bucket"),
        ],
    )
    def test_wrong_source_is_named_before_any_request(
        self, sim: Simulator, tmp_path: Path, make: Callable[[Path], Any], said: str
    ) -> None:
        with pytest.raises(MagicHourArgumentError, match=said) as caught:
            MagicHourHook().upload_file(make(tmp_path))
        assert isinstance(caught.value, AirflowFailException)
        assert sim.requests() == []


def test_unknown_storage_scheme_is_named(sim: Simulator) -> None:
    with pytest.raises(MagicHourUploadError, match="install the Airflow provider"):
        MagicHourHook().upload_file("nosuchscheme://bucket/a.png")
    assert sim.requests() == []


def _file(path: Path, content: bytes = b"x") -> Path:
    path.write_bytes(content)
    return path


class TestPut:
    def test_upload_sends_its_length_and_no_secret(self, storage: Storage, face: Path) -> None:
        assert MagicHourHook().upload_file(face) == "api-assets/id/1.png"
        (put,) = storage.stored()
        assert put.headers["content-length"] == str(face.stat().st_size)
        assert "transfer-encoding" not in put.headers
        assert "authorization" not in put.headers
        assert "cookie" not in put.headers
        assert put.body == face.read_bytes()

    def test_netrc_entry_is_not_sent(
        self, storage: Storage, face: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("NETRC", str(_file(tmp_path / "netrc", b"machine 127.0.0.1 login a password b")))
        MagicHourHook().upload_file(face)
        assert "authorization" not in storage.stored()[0].headers

    @pytest.mark.parametrize("broken", [Reply(403), Reply(410), Reply(400), Reply(500), Reply(drop=True)])
    def test_failed_upload_is_retried_with_a_fresh_presigned_url(
        self, storage: Storage, face: Path, broken: Reply
    ) -> None:
        storage.puts = [broken]
        assert MagicHourHook().upload_file(face) == "api-assets/id/2.png"
        assert storage.stored()[-1].body == face.read_bytes()

    def test_expired_url_is_not_used(self, storage: Storage, face: Path) -> None:
        storage.item = {"expires_at": "2020-01-01T00:00:00Z"}
        with pytest.raises(MagicHourUploadError, match="expired"):
            MagicHourHook().upload_file(face)
        assert storage.asked == 3
        assert storage.stored() == []

    def test_lasting_error_quotes_the_storage(self, storage: Storage, face: Path) -> None:
        storage.puts = [Reply(503, b"<Error><Message>Slow down</Message></Error>")] * 3
        with pytest.raises(MagicHourUploadError, match=r"503.*Slow down") as caught:
            MagicHourHook().upload_file(face)
        assert not isinstance(caught.value, AirflowFailException)
        assert len(storage.stored()) == 3

    def test_refused_file_is_not_sent_again(self, storage: Storage, face: Path) -> None:
        storage.puts = [Reply(413)]
        with pytest.raises(MagicHourUploadError, match="413"):
            MagicHourHook().upload_file(face)
        assert len(storage.stored()) == 1

    def test_redirect_is_not_followed(self, storage: Storage, face: Path) -> None:
        storage.puts = [Reply(302, headers={"Location": "/elsewhere"})] * 3
        with pytest.raises(MagicHourUploadError, match="302"):
            MagicHourHook().upload_file(face)

    def test_no_error_holds_the_signed_url(self, storage: Storage, face: Path) -> None:
        storage.puts = [Reply(drop=True)] * 3
        with pytest.raises(MagicHourUploadError) as caught:
            MagicHourHook().upload_file(face)
        assert "s3cret" not in "".join(traceback.format_exception(caught.value))

    def test_traceback_of_an_unreachable_host_holds_no_signed_url(self, storage: Storage, face: Path) -> None:
        storage.item = {"upload_url": f"http://127.0.0.1:{free_port()}/x.png?signature=s3cret"}
        with pytest.raises(MagicHourUploadError) as caught:
            MagicHourHook().upload_file(face)
        assert "s3cret" not in "".join(traceback.format_exception(caught.value))

    def test_stored_file_needs_no_complete_response(self, storage: Storage, face: Path) -> None:
        storage.puts = [Reply(200, b"half", headers={"Content-Length": "500"})]
        assert MagicHourHook().upload_file(face) == "api-assets/id/1.png"

    def test_interrupted_response_is_retried(self, storage: Storage, face: Path) -> None:
        storage.puts = [Reply(500, b"no gzip", headers={"Content-Encoding": "gzip"})]
        assert MagicHourHook().upload_file(face) == "api-assets/id/2.png"

    @pytest.mark.parametrize(
        "item", [{"upload_url": None}, {"upload_url": "ftp://h/x"}, {"file_path": 7}, {"upload_url": "x"}]
    )
    def test_malformed_response_is_an_error(self, storage: Storage, face: Path, item: dict[str, Any]) -> None:
        storage.item = item
        with pytest.raises(MagicHourUploadError, match="presigned URL"):
            MagicHourHook().upload_file(face)

    def test_shrinking_file_is_an_error(self, storage: Storage, face: Path) -> None:
        body = upload._Body(io.BytesIO(b"12345"), 9)
        with pytest.raises(OSError, match="early"):
            b"".join(body)
        assert body.is_short

    def test_growing_file_is_sent_as_announced(self) -> None:
        assert b"".join(upload._Body(io.BytesIO(b"123456789"), 5)) == b"12345"

    def test_large_file_is_streamed(self, storage: Storage, tmp_path: Path) -> None:
        class Counting(io.BytesIO):
            name = "large.mp4"
            most = 0

            def read(self, size: int | None = -1) -> bytes:
                found = super().read(size)
                self.most = max(self.most, len(found))
                return found

        file = Counting(b"x" * (5 * upload.CHUNK))
        MagicHourHook().upload_file(file)
        assert file.most == upload.CHUNK
        assert len(storage.stored()[0].body) == 5 * upload.CHUNK


class TestOperator:
    def test_operator_takes_one_source_or_a_list(self, sim: Simulator, face: Path) -> None:
        one = MagicHourUploadOperator(task_id="one", source=str(face)).execute(task_context())
        many = MagicHourUploadOperator(task_id="many", source=[str(face), one]).execute(task_context())
        assert many[1] == one
        assert len(sim.state()["uploads"]) == 2

    @pytest.mark.parametrize("source", [None, "", "  "])
    def test_constructor_refuses_an_empty_source(self, source: Any) -> None:
        with pytest.raises(MagicHourArgumentError, match="source"):
            MagicHourUploadOperator(task_id="one", source=source)

    @pytest.mark.parametrize("source", [[], (), iter([])], ids=["list", "tuple", "rendered"])
    def test_empty_list_uploads_nothing(self, sim: Simulator, source: Any) -> None:
        task = MagicHourUploadOperator(task_id="one", source=source)
        assert task.execute(task_context()) == []
        assert sim.state()["uploads"] == {}


class TestPlanLimit:
    """A file over the limit of the account's plan, where Magic Hour says which plan that is."""

    @staticmethod
    def upload(storage: Storage, tmp_path: Path, account: Reply, size: int) -> str:
        path = tmp_path / "long.mp4"
        with path.open("wb") as file:
            file.truncate(size)
        respond = storage.respond
        storage.server.respond = lambda seen: account if seen.path == "/v1/account" else respond(seen)
        return MagicHourHook().upload_file(str(path))

    def test_file_over_the_limit_is_refused_before_the_transfer(
        self, storage: Storage, tmp_path: Path
    ) -> None:
        with pytest.raises(MagicHourArgumentError, match=r"accepts at most 200 MiB on the plan 'free'"):
            self.upload(storage, tmp_path, Reply(body={"tier": "free"}), 201 << 20)
        assert [seen.path for seen in storage.server.seen] == ["/v1/account"]

    @pytest.mark.parametrize(
        "account", [Reply(body={"tier": "creator"}), Reply(body={"tier": "new"}), Reply(body={}), Reply(404)]
    )
    def test_file_is_uploaded_where_the_plan_allows_it_or_is_unknown(
        self, storage: Storage, tmp_path: Path, account: Reply, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(upload.MAX_BYTES, "free", 1000)
        assert self.upload(storage, tmp_path, account, 2000).startswith("api-assets/")

    def test_small_file_asks_for_no_plan(self, storage: Storage, tmp_path: Path) -> None:
        self.upload(storage, tmp_path, Reply(500), 1000)
        assert "/v1/account" not in [seen.path for seen in storage.server.seen]


def test_object_that_is_replaced_during_the_upload_is_an_error(
    storage: Storage, s3_store: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "PART", 1_000_000)
    s3_store.write("in/voice.mp3", b"A" * 5_000_000)
    read = upload._version

    def replaced(info: Any) -> Any:
        found = read(info)
        s3_store.write("in/voice.mp3", b"B" * 5_000_000)
        return found

    monkeypatch.setattr(upload, "_version", replaced)
    with pytest.raises(MagicHourUploadError, match="was replaced during the upload"):
        MagicHourHook().upload_file(f"{s3_store.root}/in/voice.mp3")


def test_large_object_is_read_in_parts_beside_the_upload(
    storage: Storage, s3_store: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "PART", 1_000_000)
    data = random.Random(1).randbytes(5_500_001)
    s3_store.write("in/voice.mp3", data)
    storage.puts = [Reply(500), Reply()]
    assert MagicHourHook().upload_file(f"{s3_store.root}/in/voice.mp3") == "api-assets/id/2.png"
    assert [seen.body == data for seen in storage.stored()] == [True, True]


def test_upload_goes_through_a_proxy_without_a_scheme(
    storage: Storage, face: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with scripted_server() as proxy:
        proxy.script(Reply())
        storage.item = {"upload_url": "http://storage.example.com/a.png?signature=s3cret"}
        monkeypatch.setenv("HTTP_PROXY", proxy.url.replace("http://127.0.0.1", "localhost"))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        assert MagicHourHook().upload_file(face) == "api-assets/id/1.png"
    assert [seen.path for seen in proxy.seen] == ["http://storage.example.com/a.png?signature=s3cret"]
