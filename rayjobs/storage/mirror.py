"""Results on object storage: every process works in a local folder, and what lies in it has a twin at an address.

    s3://bucket/prefix/EXPERIMENT/...    what counts: whoever starts anew, anywhere, resumes from it
    /var/tmp/equipoise-USER/.../...      the same path on every node: a working copy, which may be lost at any time

A run pulls its folder before it begins and pushes what changed before each report, so that what was reported is in
storage. A checkpoint's manifest is pushed after its weights and an old one removed after the new one stands, so that
the newest valid checkpoint there is always whole. For results in an ordinary folder there is no address, and nothing
here does anything.

No key is ever held here: each process takes them from its environment, or wherever AWS's own tools look.
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import functools
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from mmcore.storage import patiently, write_whole
from rayjobs.results_layout import CHECKPOINTS
from rayjobs.storage.object_store import LOCAL_SCHEME, as_storage_errors, connect, is_file

if TYPE_CHECKING:
    from pyarrow.fs import FileInfo, FileSystem

PARALLEL = 8
"""Files that travel at once: on object storage each costs some round trips, whatever its size."""


@dataclass(frozen=True)
class Mirror:
    """A folder and the address of its twin; small, and pickled to every process of a search.

    Attributes:
        root: The local folder, at the same path on every node.
        address: `s3://bucket/prefix`; "": results lie in an ordinary folder and have no twin.
    """

    root: Path = Path()
    address: str = ""

    def __bool__(self) -> bool:
        return bool(self.address)

    def address_of(self, path: Path) -> str:
        """Returns the address of a file or folder; its path where there is no twin."""
        return f"{self.address}/{path.relative_to(self.root).as_posix()}" if self.address else str(path)

    def reach(self) -> None:
        """Looks whether storage answers.

        Raises:
            OSError: It does not; tried once.
        """
        if self.address:
            self._list(self.root, recursive=False)

    def pull(self, folder: Path, without: Sequence[str] = ()) -> None:
        """Makes a local folder equal to its twin: what is not there is removed here.

        Args:
            folder: Within the root.
            without: Names of files and folders that stay as they are.
        """
        if self.address:
            patiently(lambda: self._pull(folder, without))

    def push(self, files: Iterable[Path]) -> None:
        """Writes local files to their twins' places, each whole or not at all.

        Raises:
            OSError: Storage cannot be reached; tried once.
        """
        if self.address:
            self._each(self._upload, list(files))

    def pull_index(self, names: Sequence[str]) -> None:
        """Pulls the files `names` of every folder of the root; those there are no longer are removed here."""
        if not self.address:
            return
        # All go first: a twin that was removed must not leave its old file here.
        for stale in (file for name in names for file in self.root.glob(f"*/{name}")):
            stale.unlink()
        twins = [info for info in patiently(lambda: self._list(self.root, recursive=False)) if not is_file(info)]
        for twin in twins:
            for name in names:
                content = patiently(functools.partial(self._read, f"{twin.path}/{name}"))
                if content is not None:
                    target = self.root / PurePosixPath(twin.path).name / name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    write_whole(target, content)

    def renew(self, folder: Path) -> None:
        """Puts what is in storage in the place of a local folder, but for checkpoints: each run pulls its own."""
        if self.address:
            shutil.rmtree(folder, ignore_errors=True)
            # Checkpoints are the largest part; this process reads none of them.
            self.pull(folder, without=(CHECKPOINTS,))

    def rename(self, old: Path, new: Path) -> None:
        """Renames the twin of a folder."""
        for info in patiently(lambda: self._list(old)) if self.address else ():
            if is_file(info):
                target = self._place(new / PurePosixPath(info.path).relative_to(self._place(old)))
                with as_storage_errors():
                    self._make_parent(target)
                    self._filesystem.move(info.path, target)

    def remove(self, folder: Path, *, dry_run: bool = False) -> int:
        """Removes the twin of a folder with all that is in it; returns its bytes.

        Raises:
            OSError: Storage cannot be reached; tried once.
        """
        twins = [info for info in (self._list(folder) if self.address else ()) if is_file(info)]
        if twins and not dry_run:
            with as_storage_errors():
                self._filesystem.delete_dir(self._place(folder))
        return sum(int(info.size or 0) for info in twins)

    def marks(self, folder: Path, pattern: str) -> tuple[tuple[str, int], ...]:
        """Returns the names and times (ns) of files directly in a folder's twin; nothing if it cannot be reached."""
        if not self.address:
            return ()
        try:
            found = self._list(folder, recursive=False)
        except OSError:
            return ()
        return tuple(
            sorted((info.base_name, info.mtime_ns) for info in found if fnmatch.fnmatch(info.base_name, pattern))
        )

    # Parts

    @property
    def _filesystem(self) -> FileSystem:
        return connect(self.address.partition("://")[0])

    def _place(self, path: Path) -> str:
        """Returns a path as the file system wants it: `bucket/prefix/...`."""
        relative = path.relative_to(self.root).as_posix()
        return self.address.partition("://")[2].rstrip("/") + ("" if relative == "." else f"/{relative}")

    def _list(self, folder: Path, *, recursive: bool = True) -> list[FileInfo]:
        from pyarrow.fs import FileSelector

        with as_storage_errors():
            place = self._place(folder)
            found = self._filesystem.get_file_info(FileSelector(place, allow_not_found=True, recursive=recursive))
            return list(found)

    def _read(self, place: str) -> bytes | None:
        try:
            with as_storage_errors(), self._filesystem.open_input_stream(place) as stream:
                return bytes(stream.read())
        except FileNotFoundError:
            return None

    def _pull(self, folder: Path, without: Sequence[str]) -> None:
        own_folder(self.root)
        place = self._place(folder)
        twins = [PurePosixPath(info.path).relative_to(place) for info in self._list(folder) if is_file(info)]
        # What begins with a dot is not part of the folder: who holds it, and what is half written.
        twins = [twin for twin in twins if not set(without) & set(twin.parts) and not is_hidden(twin)]
        here = [path for path in files_in(folder) if not set(without) & set(path.relative_to(folder).parts)]
        # Downloads come before removals: a pull that fails in between leaves too much here, never too little.
        self._each(self._download, [folder / twin for twin in twins])
        for path in set(here) - {folder / twin for twin in twins}:
            path.unlink(missing_ok=True)
            if not any(path.parent.iterdir()):  # an empty checkpoint folder would look like a damaged one
                path.parent.rmdir()

    def _download(self, path: Path) -> None:
        from pyarrow.fs import LocalFileSystem, copy_files

        path.parent.mkdir(parents=True, exist_ok=True)
        # Renamed when whole, and named by process: two processes of a node may pull the same file.
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        here = LocalFileSystem()
        copy_files(self._place(path), str(temporary), source_filesystem=self._filesystem, destination_filesystem=here)
        temporary.replace(path)

    def _upload(self, path: Path) -> None:
        from pyarrow.fs import LocalFileSystem, copy_files

        place, here = self._place(path), LocalFileSystem()
        self._make_parent(place)
        with contextlib.suppress(FileNotFoundError):  # it was removed since it was listed
            copy_files(str(path), place, source_filesystem=here, destination_filesystem=self._filesystem)

    def _remove(self, path: Path) -> None:
        """Removes a twin; of a folder that is gone here, what is left of it too."""
        place = self._place(path)
        with contextlib.suppress(FileNotFoundError):
            if path.parent.exists():
                self._filesystem.delete_file(place)
            else:
                self._filesystem.delete_dir(str(PurePosixPath(place).parent))

    def _make_parent(self, place: str) -> None:
        if self.address.startswith(f"{LOCAL_SCHEME}://"):  # elsewhere there are no folders
            self._filesystem.create_dir(str(PurePosixPath(place).parent), recursive=True)

    def _each(self, action: Callable[[Path], None], paths: Sequence[Path]) -> None:
        if not paths:
            return
        with as_storage_errors(), ThreadPoolExecutor(PARALLEL) as pool:
            list(pool.map(action, paths))  # `map` alone would drop the exceptions


NO_MIRROR = Mirror()


def files_in(folder: Path) -> list[Path]:
    """Returns all files below a folder, but for temporary ones, whose name or folder's name begins with a dot."""
    found = []
    for place, folders, names in os.walk(folder):
        # Changed in place, so that `os.walk` does not enter a half-written folder.
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(place) / name for name in names if not name.startswith(".")]
    return sorted(found)


def is_hidden(path: PurePosixPath) -> bool:
    """Tells whether a path, or a folder of it, begins with a dot."""
    return any(part.startswith(".") for part in path.parts)


def own_folder(path: Path) -> None:
    """Makes a folder only this user can read; state in it is loaded by pickle.

    Raises:
        PermissionError: It is another user's.
    """
    for folder in (path.parent, path):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # `mkdir` accepts what is there: in a shared /var/tmp another user may have put a link or a folder there first.
        if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
            raise PermissionError(errno.EPERM, "belongs to another user; set EQUIPOISE_CACHE to a folder", str(folder))
