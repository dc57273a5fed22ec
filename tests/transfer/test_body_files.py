"""The files that create bodies name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from airflow_provider_magichour._transfer import body_files
from airflow_provider_magichour.exceptions import MagicHourArgumentError


class TestAssetType:
    @pytest.mark.parametrize(
        ("name", "hint", "expected"),
        [
            ("a.png", "", ("image", "png")),
            ("s3://b/a b.JPeG", "", ("image", "jpeg")),
            ("a.webm", "", ("video", "webm")),
            ("a.webm", "audio_file_path", ("audio", "webm")),
            ("a.gif", "video_file_path", ("video", "gif")),
            ("a.mkv", "", ("video", "mkv")),  # not in the specification; Magic Hour itself decides
        ],
    )
    def test_asset_type_comes_from_the_extension(
        self, name: str, hint: str, expected: tuple[str, str]
    ) -> None:
        assert body_files.asset_type(name, hint) == expected


class TestFindAssets:
    @pytest.mark.parametrize(
        ("assets", "found"),
        [
            ({"image_file_path": "a.png"}, [("a.png", "image_file_path")]),
            ({"image_file_path": "/a/b.weird"}, [("/a/b.weird", "image_file_path")]),
            (
                {"image_file_paths": ["s3://b/a.png", "api-assets/x.png"]},
                [("s3://b/a.png", "image_file_paths")],
            ),
            (
                {"face_mappings": [{"original_face": "0-0.png", "new_face": "~/n.png"}]},
                [("~/n.png", "new_face")],
            ),
            ({"face_swap_mode": "all-faces", "video_source": "file"}, []),
            ({"youtube_url": "https://youtu.be/x"}, []),
            ({"image_file_path": "https://h/a.png"}, []),
            ({"image_file_path": None, "number": 7, "flag": True}, []),
            ({"newer_field": "clip.mp4"}, [("clip.mp4", "newer_field")]),
            (None, []),
            ({"image_file_path": Path("faces/a.png")}, [("faces/a.png", "image_file_path")]),
            ({"image_file_path": "saved-items/u1/i1/image.png"}, []),
            ({"image_file_path": "https://magichour.ai/my-library?imageId=p1"}, []),
        ],
    )
    def test_only_files_are_found_in_a_body(self, assets: Any, found: list[tuple[str, str]]) -> None:
        assert body_files.find_assets({"assets": assets, "name": "/not/an/asset.png"}) == found

    def test_references_name_files(self) -> None:
        references = [
            {"name": "cat", "file_path": "/a/cat.png"},
            {"name": "dog", "file_path": Path("dog")},
            {"name": "car.png", "file_path": "saved-items/u/i/image.png"},
            {"name": "bus.png"},
            "odd",
        ]
        body = {"references": references, "style": {"prompt": "@cat.png"}}
        assert body_files.find_assets(body) == [("/a/cat.png", "file_path"), ("dog", "file_path")]
        replaced = body_files.replace_assets(body, {"/a/cat.png": "api-assets/1", "dog": "api-assets/2"})
        paths = [one.get("file_path") for one in replaced["references"][:4]]
        assert paths == ["api-assets/1", "api-assets/2", "saved-items/u/i/image.png", None]
        assert replaced["references"][4] == "odd"
        assert body["references"][0]["file_path"] == "/a/cat.png"

    def test_gif_is_a_video_for_face_swap_only(self) -> None:
        assert body_files.find_assets({"assets": {"video_file_path": "a.gif"}})
        with pytest.raises(MagicHourArgumentError, match="GIF"):
            body_files.find_assets({"assets": {"image_file_path": "a.gif"}})

    def test_replacing_does_not_change_the_given_body(self) -> None:
        body = {"assets": {"image_file_paths": ["a.png", "b.png"]}, "n": 1}
        assert body_files.replace_assets(body, {"a.png": "api-assets/1"}) == {
            "assets": {"image_file_paths": ["api-assets/1", "b.png"]},
            "n": 1,
        }
        assert body["assets"] == {"image_file_paths": ["a.png", "b.png"]}
