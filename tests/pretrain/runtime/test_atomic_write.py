"""Files and folders are there whole or not at all."""

from pathlib import Path

import pytest

from pretrain.runtime.atomic_write import whole_file, whole_folder, write_text


def test_a_failed_write_leaves_the_file_of_before_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.txt"
    write_text(path, "first")
    with pytest.raises(ZeroDivisionError), whole_file(path) as scratch:
        scratch.write_text("half")
        assert path.read_text() == "first"
        _ = 1 / 0
    assert [(file.name, file.read_text()) for file in path.parent.iterdir()] == [("file.txt", "first")]
    write_text(path, "second")
    assert path.read_text() == "second"


def test_a_folder_appears_at_once_and_a_killed_one_is_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (tmp_path / "folder.tmp").mkdir()
    (tmp_path / "folder.tmp" / "left").touch()  # by a process that was killed
    with pytest.raises(ZeroDivisionError), whole_folder(folder) as scratch:
        assert not list(scratch.iterdir())
        _ = 1 / 0
    assert not list(tmp_path.iterdir())
    with whole_folder(folder) as scratch:
        (scratch / "file").touch()
        assert not folder.exists()
    assert [path.relative_to(tmp_path) for path in tmp_path.rglob("*")] == [Path("folder"), Path("folder/file")]
