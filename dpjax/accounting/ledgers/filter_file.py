"""One budget that several programs spend from, in a file."""

import contextlib
import os
import pathlib
from collections.abc import Iterator
from typing import NoReturn

from dpjax import _check, _files
from dpjax.accounting.events import Event, Relation
from dpjax.accounting.ledgers.budget import Budget
from dpjax.accounting.ledgers.chain import LedgerError
from dpjax.accounting.ledgers.ledger_entry import Entry
from dpjax.accounting.ledgers.privacy_filter import PrivacyFilter

try:
    import fcntl
except ImportError:  # not a POSIX system: no lock
    fcntl = None  # type: ignore[assignment]


class FilterFile:
    """A privacy filter in a file: the one budget of all programs that share it.

    What is spent is on the disk when `spend` returns, and so before the release that it
    is for. A program that dies in between has lost that part of the budget; none is
    ever given back. Programs that spend at the same time do so one after the other, so
    that no two of them can take the same rest. Each release has a label of its own: to
    spend under one that is there already is an error.

    Guarantee: that of the filter, for all releases that were spent here, by whichever
    program, also where releases of several programs take turns (Haney et al. 2023: what
    holds of releases one after the other does of mechanisms that are asked at the same
    time). It holds as long as the file is the newest one: whoever deletes it, or puts
    an older copy in its place, gives budget back. `snapshot().digest`, kept elsewhere,
    shows that.

    Args:
      path: the file. It and its folder are made by the first `spend`, for their owner
        alone. Beside it is a file that ends in ".lock"; do not delete that.
      new: a filter on which nothing was spent, to begin with where there is no file.
        Where there is one, it must be of this kind, budget and relation; the orders of
        a `RenyiFilter` are the file's.

    Raises:
      TypeError: `new` is no filter. ValueError: something was spent on it.

    References:
      Haney, Shoemate, Tian, Vadhan, Vyrros, Xu and Zhang (2023), Concurrent composition
      for interactive differential privacy with adaptive privacy-loss parameters,
      arXiv 2309.05901.

    Example:
      >>> import dp_accounting, tempfile
      >>> from dpjax.accounting import RenyiFilter
      >>> folder = tempfile.TemporaryDirectory()
      >>> def budget():
      ...     return FilterFile(folder.name + "/budget.json", RenyiFilter((3.0, 1e-5)))
      >>> budget().spend(dp_accounting.GaussianDpEvent(4.0), "the first look")
      >>> budget().admits(dp_accounting.GaussianDpEvent(1.5))  # another program
      False
      >>> folder.cleanup()
    """

    def __init__(self, path: str | os.PathLike[str], new: PrivacyFilter) -> None:
        if not isinstance(new, PrivacyFilter):
            _check.fail("a PrivacyFilter", "new", new, TypeError)
        if new.entries:
            _check.fail("a filter on which nothing was spent", "new", new.entries)
        # Not the link to the file, which would be replaced by another file.
        self._path, self._new = pathlib.Path(path).resolve(), new

    @property
    def path(self) -> pathlib.Path:
        """The file, absolute."""
        return self._path

    @property
    def budget(self) -> Budget:
        """What is promised of all releases together."""
        return self._new.budget

    @property
    def relation(self) -> Relation:
        """The data sets that are neighbours."""
        return self._new.relation

    @property
    def entries(self) -> tuple[Entry, ...]:
        """What was spent so far, in order."""
        return self.snapshot().entries

    def admits(self, event: Event) -> bool:
        """Tell whether `event` fits into what is left now; nothing is spent."""
        return self.snapshot().admits(event)

    def snapshot(self) -> PrivacyFilter:
        """Return a filter of what was spent so far; the file stays as it is.

        Raises:
          LedgerError: the file cannot be read, is damaged or was changed, or is of
            another kind, budget or relation; or it has several names, of which one
            would be left behind by the next `spend`.
        """
        try:
            found = type(self._new).load(self._path)
            links = self._path.stat().st_nlink
        except FileNotFoundError:
            return self._new.snapshot()
        except OSError as error:
            self._fail(f"a file that can be read ({error.strerror})", error)
        except LedgerError as error:
            self._fail(f"a {type(self._new).__name__} ({error})", error)
        wanted, kept = (
            (each.budget, each.relation.name) for each in (self._new, found)
        )
        if wanted != kept:
            self._fail(f"{wanted[0]} under {wanted[1]} (it has {kept[0]}, {kept[1]})")
        if links > 1:
            self._fail("a file of one name")
        return found

    def spend(self, event: Event, label: str) -> None:
        """Record a release that is about to be made, on the disk.

        Args:
          event: as for a `PrivacyFilter`.
          label: what it is for; nothing was spent under it yet.

        Raises:
          BudgetExceeded: it does not fit into what is left. Nothing is written, and the
            release must not be made.
          LedgerError: as `snapshot`. WriteError: the file cannot be written or locked.
          TypeError, ValueError, AccountingError: as `PrivacyFilter.spend`; there is an
            entry of that label.
        """
        with self._locked():
            now = self.snapshot()
            if label in [entry.label for entry in now.entries]:
                what = "a label under which nothing was spent"
                _check.fail(what, "label", label)
            now.spend(event, label)
            now.save(self._path)
            _files.synchronize(self._path.parent)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Wait until no other program is at the file; keep others waiting."""
        lock = self._path.with_name(self._path.name + ".lock")
        try:
            handle = self._waited_for(lock)
        except OSError as error:
            self._not_locked(error)
        with os.fdopen(handle, "w"):
            yield

    def _waited_for(self, lock: pathlib.Path) -> int:
        """Return a handle with the lock, on the file that has its name now."""
        if fcntl is None:
            raise OSError(0, "this system has no locks")
        _files.make_folder(self._path.parent)
        while True:
            handle = os.open(lock, os.O_WRONLY | os.O_CREAT, _files.PRIVATE_FILE)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX)
                if _is_at(handle, lock):
                    return handle
            except BaseException:
                os.close(handle)
                raise
            os.close(handle)  # somebody has deleted the file that was locked

    def _fail(self, what: str, cause: Exception | None = None) -> NoReturn:
        message = f"Expected {what}, got path={str(self._path)!r}."
        raise LedgerError(message) from cause

    def _not_locked(self, error: OSError) -> NoReturn:
        raise _files.WriteError(
            f"Expected a file that can be written and locked ({error.strerror}), got "
            f"path={str(self._path)!r}."
        ) from error


def _is_at(handle: int, path: pathlib.Path) -> bool:
    """Tell whether an open file still has its name."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
