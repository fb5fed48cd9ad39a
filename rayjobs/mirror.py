"""Results on object storage: every process works in a local folder, and what lies in it has a twin at an address.

    s3://bucket/prefix/EXPERIMENT/...    what counts: whoever starts anew, anywhere, goes on from it
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
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from mmcore.patience import patiently

if TYPE_CHECKING:
    from pyarrow.fs import FileInfo, FileSystem

CHECKPOINTS = "checkpoints"
"""Folder of a run's checkpoints, which only the run itself needs."""
TRAIN_FOLDER = "train"
"""Ray Train's own notes in a run's folder, of no use to another attempt."""
MANIFEST_FILE = "manifest.json"
"""`mmcore.checkpoint`'s, which would bring torch with it."""
LAST_FILES = ((MANIFEST_FILE,), ("result.json",))
"""Pushed when all others stand: who finds one of them may rely on what it speaks of."""
NOTES = ("failure.json", "placement_group", "claim")
"""Files an attempt at a run leaves for the next one to remove."""
PUSH_EVERY_S = 20.0
"""Between two pushes while an epoch runs: signs of life, checkpoints within the epoch."""
PARALLEL = 8
"""Files that travel at once: on object storage each costs some round trips, whatever its size."""
LOCAL_SCHEME = "file"


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
        for stale in (file for name in names for file in self.root.glob(f"*/{name}")):
            stale.unlink()
        twins = [info for info in patiently(lambda: self._list(self.root, recursive=False)) if not _is_file(info)]
        for twin in twins:
            for name in names:
                content = patiently(functools.partial(self._read, f"{twin.path}/{name}"))
                if content is not None:
                    target = self.root / PurePosixPath(twin.path).name / name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(content)

    def renew(self, folder: Path) -> None:
        """Puts what is in storage in the place of a local folder, but for checkpoints: each run pulls its own."""
        if self.address:
            shutil.rmtree(folder, ignore_errors=True)
            self.pull(folder, without=(CHECKPOINTS,))

    def rename(self, old: Path, new: Path) -> None:
        """Renames the twin of a folder."""
        for info in patiently(lambda: self._list(old)) if self.address else ():
            if _is_file(info):
                target = self._place(new / PurePosixPath(info.path).relative_to(self._place(old)))
                with _as_storage_errors():
                    self._make_parent(target)
                    self._filesystem.move(info.path, target)

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

    @contextmanager
    def following(self, run_dir: Path, only: Sequence[str] = ()) -> Iterator[Follower]:
        """Keeps a run's folder and its twin equal for the time of a `with` block, which is this run's attempt.

        Args:
            run_dir: The run's folder.
            only: Patterns of the files this process writes; (): all of them.

        Yields:
            What pushes, at once, when it is told to.
        """
        self.pull(run_dir)
        follower = Follower(self, run_dir, only)
        with follower.pushing_now_and_then():
            yield follower
        follower.push()

    # Parts

    @property
    def _filesystem(self) -> FileSystem:
        return connect(self.address.partition("://")[0])

    def _place(self, path: Path) -> str:
        """Returns a path as the file system wants it: `bucket/prefix/...`."""
        relative = path.relative_to(self.root).as_posix()
        return self.address.partition("://")[2].rstrip("/") + ("" if relative == "." else f"/{relative}")

    def _list(self, folder: Path, recursive: bool = True) -> list[FileInfo]:
        from pyarrow.fs import FileSelector

        with _as_storage_errors():
            place = self._place(folder)
            return self._filesystem.get_file_info(FileSelector(place, allow_not_found=True, recursive=recursive))

    def _read(self, place: str) -> bytes | None:
        try:
            with _as_storage_errors(), self._filesystem.open_input_stream(place) as stream:
                return stream.read()
        except FileNotFoundError:
            return None

    def _pull(self, folder: Path, without: Sequence[str]) -> None:
        own_folder(self.root)
        place = self._place(folder)
        twins = [PurePosixPath(info.path).relative_to(place) for info in self._list(folder) if _is_file(info)]
        twins = [twin for twin in twins if not set(without) & set(twin.parts)]
        here = [path for path in files_in(folder) if not set(without) & set(path.relative_to(folder).parts)]
        self._each(self._download, [folder / twin for twin in twins])
        for path in set(here) - {folder / twin for twin in twins}:
            path.unlink(missing_ok=True)
            if not any(path.parent.iterdir()):  # an empty checkpoint folder would look like a damaged one
                path.parent.rmdir()

    def _download(self, path: Path) -> None:
        from pyarrow.fs import LocalFileSystem, copy_files

        path.parent.mkdir(parents=True, exist_ok=True)
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
        with _as_storage_errors(), ThreadPoolExecutor(PARALLEL) as pool:
            list(pool.map(action, paths))


NO_MIRROR = Mirror()


class Follower:
    """Pushes what changed in a run's folder.

    Args:
        mirror: Where to.
        run_dir: The folder, just pulled.
        only: Patterns of the files that are pushed; (): all.
    """

    def __init__(self, mirror: Mirror, run_dir: Path, only: Sequence[str] = ()):
        self._mirror = mirror
        self._run_dir = run_dir
        self._only = only
        self._lock = threading.Lock()
        self._pushed = self._look() if mirror else {}

    def push(self) -> None:
        """Makes the twin equal to the folder; waits, for some minutes, where storage is away."""
        if self._mirror:
            with self._lock:
                patiently(self._push)

    @contextmanager
    def pushing_now_and_then(self) -> Iterator[None]:
        """Pushes from another thread too, for the time of a `with` block."""
        ended = threading.Event()

        def follow() -> None:
            while not ended.wait(PUSH_EVERY_S):
                with self._lock, contextlib.suppress(OSError):  # met, and said, at the next report
                    self._push(remove=False)

        thread = threading.Thread(target=follow, daemon=True)
        if self._mirror:
            thread.start()
        try:
            yield
        finally:
            ended.set()
            if self._mirror:
                thread.join()

    def _push(self, remove: bool = True) -> None:
        found = self._look()
        changed = [path for path, state in found.items() if self._pushed.get(path) != state]
        for names in ((), *LAST_FILES):
            batch = [path for path in changed if (path.name in names if names else not _comes_last(path))]
            self._mirror.push(batch)
            self._pushed |= {path: found[path] for path in batch}
        for path in self._superseded(found) if remove else ():
            with _as_storage_errors():
                self._mirror._remove(path)
            del self._pushed[path]

    def _superseded(self, found: Collection[Path]) -> list[Path]:
        """Returns what a run itself removed: checkpoints of which a newer one stands, and notes of an attempt.

        Nothing else: of a folder that vanishes under its process the twin is all that is left.
        """
        standing = {_kind(path) for path in found if path.name == MANIFEST_FILE}
        gone = (path for path in self._pushed if path not in found)
        return sorted(path for path in gone if path.name in NOTES or _kind(path) in standing)

    def _look(self) -> dict[Path, tuple[int, int]]:
        """Returns each file of the folder with its size and time."""
        found = {}
        for path in files_in(self._run_dir):
            if path.relative_to(self._run_dir).parts[0] == TRAIN_FOLDER:
                continue
            if self._only and not any(fnmatch.fnmatch(path.name, pattern) for pattern in self._only):
                continue
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                found[path] = (status.st_size, status.st_mtime_ns)
        return found


def files_in(folder: Path) -> list[Path]:
    """Returns all files below a folder, but for temporary ones, whose name or folder's name begins with a dot."""
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(place) / name for name in names if not name.startswith(".")]
    return sorted(found)


def own_folder(path: Path) -> None:
    """Makes a folder only this user can read; state in it is loaded by pickle.

    Raises:
        PermissionError: It is another user's.
    """
    for folder in (path.parent, path):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
            raise PermissionError(errno.EPERM, "belongs to another user; set EQUIPOISE_CACHE to a folder", str(folder))


@functools.cache
def connect(scheme: str) -> FileSystem:
    """Returns this process's file system for addresses of a scheme; keys and endpoint are the environment's."""
    from pyarrow import fs

    if scheme == LOCAL_SCHEME:
        return fs.LocalFileSystem()
    endpoint = _environment("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
    # Without a region its client asks the metadata server of a cloud machine, which other machines do not have.
    region = _environment("AWS_REGION", "AWS_DEFAULT_REGION") or ("us-east-1" if endpoint else None)
    return fs.S3FileSystem(endpoint_override=endpoint, region=region)


def _environment(*names: str) -> str | None:
    return next((os.environ[name] for name in names if os.environ.get(name)), None)


@contextmanager
def _as_storage_errors() -> Iterator[None]:
    """Gives the file system's errors, which say only in words that storage is away, the number of such errors."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:
            raise
        raise OSError(errno.EIO, str(error).splitlines()[0]) from None


def _kind(path: Path) -> tuple[Path, str] | None:
    """Returns which row of checkpoints a file belongs to, `epoch` or `best`; None of another file."""
    folder = path.parent
    return (folder.parent, folder.name.partition("-")[0]) if folder.parent.name == CHECKPOINTS else None


def _comes_last(path: Path) -> bool:
    return any(path.name in names for names in LAST_FILES)


def _is_file(info: Any) -> bool:
    from pyarrow.fs import FileType

    return bool(info.type == FileType.File)
