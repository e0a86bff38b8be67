"""How commands end: a line for what a user can mend, a traceback for a defect."""

from __future__ import annotations

import errno
import io
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.common.errors import InputError
from bench.common.exits import ended
from bench.common.names import as_file_name, checked_name


def raising(error: BaseException) -> Callable[[], None]:
    def work() -> None:
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (InputError("x.yaml, key B: found 0"), 2, "machbench: x.yaml, key B: found 0"),
        (PermissionError(errno.EACCES, "Permission denied", "in/train.txt"), 2, "in/train.txt"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "in"), 2, "Is a directory"),
        (OSError(errno.ENOSPC, "No space left on device", "results/e"), 1, "results/e: no space left"),
        (MemoryError("Unable to allocate 9 TiB"), 1, "memory is short (Unable to allocate 9 TiB)"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), 1, "memory is short"),
    ],
)
def test_what_a_user_can_mend_is_one_line(
    error: BaseException, status: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        ended(raising(error))
    (line,) = capsys.readouterr().err.splitlines()
    assert end.value.code == status
    assert words in line
    assert line.startswith("machbench: ")


@pytest.mark.parametrize("error", [TypeError("'int' and 'str'"), KeyError("x"), OSError("nowhere"), ValueError("y")])
def test_a_defect_shows_its_traceback_and_asks_to_report_it(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        ended(raising(error))
    lines = capsys.readouterr().err.splitlines()
    assert end.value.code == 1
    assert lines[0].startswith("Traceback")
    assert "defect of machbench" in lines[-1]
    assert "report" in lines[-1]


def test_bytes_that_are_no_text_name_the_reader(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x").write_bytes(b"\xff")
    with pytest.raises(SystemExit) as end:
        ended(lambda: str((tmp_path / "x").read_text(encoding="utf-8")) and None)
    assert end.value.code == 2
    assert "not UTF-8" in capsys.readouterr().err


def test_a_terminal_without_utf8_gets_replacements(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    ended(lambda: print("97.2 ± 0.1 – ärger"))
    sys.stdout.flush()
    assert raw.getvalue() == b"97.2 ? 0.1 ? ?rger\n"


@pytest.mark.parametrize("name", ["", " ", ".", "..", "a/b", "../up", "a\\b", "a\nb", "a\x00", "a\x1b[1m", "a\u2028b"])
def test_names_that_leave_their_folder_or_line_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"^--method: found"):
        checked_name(name, "--method")


@pytest.mark.parametrize("name", [5, None, ["a"], "x" * 300])
def test_names_that_are_none_are_refused(name: object) -> None:
    with pytest.raises(InputError, match="found"):
        checked_name(name, "--method")


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("mach", "mach"),
        ("cost $5 to $9", "cost__5_to__9"),
        ("a<b>|c:d", "a_b__c_d"),
        (".hidden", "_hidden"),
        ("-rf", "_rf"),
        ("größe", "gr__e"),
        ("mach_v1.2+x=3", "mach_v1.2+x=3"),
        ("x" * 150, "x" * 80),
    ],
)
def test_any_other_name_is_safe_in_a_file_name(name: str, safe: str) -> None:
    assert checked_name(name, "--method") == name
    assert as_file_name(name) == safe
