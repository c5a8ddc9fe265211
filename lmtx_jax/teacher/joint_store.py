"""The verdict store of all processes of a run: each asks its share.

The leading process holds the store. Each other writes what it is answered into
a file of its own in the run directory, which the leading one then takes over;
also, the next time, what a kill left behind.
"""

from __future__ import annotations

from collections.abc import Callable
import contextlib
import dataclasses
import glob
import os
import uuid

import numpy as np

from lmtx_jax import processes
from lmtx_jax.files import locked
from lmtx_jax.teacher import verdict_exchange
from lmtx_jax.teacher.pairs import Pairs, Tally, Teacher
from lmtx_jax.teacher.progress import Report
from lmtx_jax.teacher.verdict_file import VerdictFile
from lmtx_jax.teacher.verdict_store import HELPER, VerdictStore
from lmtx_jax.types import Verdicts

_PART = 'verdicts.part-{}.sqlite'


class JointStore:
  """A VerdictStore that several processes judge with together."""

  def __init__(self, path: str, run_dir: str):
    """Opens the store or makes it.

    Args:
      path: of the store, which the leading process alone opens.
      run_dir: folder that all processes see, for what the others are answered.

    Raises:
      UserError: the store cannot be opened.
    """
    self._path, self._run_dir = path, run_dir
    self._store = VerdictStore(path) if processes.is_lead() else None
    self._take_over()

  def close(self) -> None:
    """Closes the file."""
    if self._store:
      self._store.close()

  def judge(
    self,
    teacher: Teacher,
    pairs: Pairs,
    asked_by: str,
    report: Report | None = None,
  ) -> tuple[Verdicts, Tally]:
    """Verdicts of all pairs on every process, see `VerdictStore.judge`.

    Each distinct pair of texts is asked by one process: that of its document.
    """
    if processes.count() == 1:
      return self._store.judge(teacher, pairs, asked_by, report)
    unknown = np.flatnonzero(~self.known(teacher, pairs))
    mine = pairs.take(unknown[_owner(pairs, unknown) == processes.index()])
    if self._store:
      self._store.judge(teacher, mine, asked_by, report)
    elif len(mine):
      self._judge_apart(teacher, mine, asked_by)
    processes.wait_for_all()
    self._take_over()
    verdicts, tally = self._all(
      lambda: self._store.judge(teacher, pairs, asked_by, report), len(pairs)
    )
    return verdicts, tally

  def _judge_apart(self, teacher: Teacher, pairs: Pairs, asked_by: str) -> None:
    """Asks what is this process's share, into a file of its own.

    File and asker have new names each time: what a kill left of an earlier
    attempt may not have been taken over yet.
    """
    name = f'{processes.index()}-{uuid.uuid4().hex[:12]}'
    path = os.path.join(self._run_dir, _PART.format(name))
    with (
      locked(f'{path}.lock'),
      contextlib.closing(VerdictStore(path)) as part,
    ):
      part.judge(teacher, pairs, f'{asked_by}{HELPER}{name}')

  def known(self, teacher: Teacher, pairs: Pairs) -> np.ndarray:
    """`[num_pairs]` bool, which are answered already; nothing is asked."""
    if self._store:
      known = self._store.known(teacher, pairs)
    else:
      known = np.zeros(len(pairs), bool)
    return processes.broadcast(known)

  def _all(
    self, judge: Callable[[], tuple[Verdicts, Tally]], num_pairs: int
  ) -> tuple[Verdicts, Tally]:
    """What the leading process finds, on every process."""
    if self._store:
      verdicts, tally = judge()
    else:
      verdicts = Verdicts(
        np.zeros(num_pairs, np.int8), np.zeros(num_pairs, np.float32)
      )
      tally = None
    told = processes.lead(lambda: dataclasses.asdict(tally))
    return Verdicts(
      processes.broadcast(verdicts.answer), processes.broadcast(verdicts.p_yes)
    ), Tally(**told)

  def _take_over(self) -> None:
    """Moves what other processes were answered into the store."""
    if not self._store:
      return
    for part in glob.glob(
      os.path.join(glob.escape(self._run_dir), _PART.format('*'))
    ):
      # A process that outlives the leading one by a while may still write.
      with locked(f'{part}.lock'):
        with (
          contextlib.closing(VerdictFile(self._path, 'write')) as target,
          contextlib.closing(VerdictFile(part, 'write')) as other,
        ):
          verdict_exchange.merge(target, other)
        for name in glob.glob(f'{glob.escape(part)}*'):  # its journal as well
          os.remove(name)


def _owner(pairs: Pairs, rows: np.ndarray) -> np.ndarray:
  """`[num_rows]` which process asks: equal documents have the same one."""
  digests = pairs.documents.digests.view('<u8').reshape(-1, 2)[:, 0]
  return digests[pairs.doc_index[rows]] % np.uint64(processes.count())
