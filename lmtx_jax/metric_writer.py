"""metrics.jsonl, one object a line, and the same for TensorBoard."""

from __future__ import annotations

import json
import os
import time


class MetricWriter:
  """Appends rows `{"cycle", "step", "time_s", "<group>/<name>": number}`."""

  def __init__(self, run_dir: str, *, is_silent: bool = False):
    """Opens RUN/metrics.jsonl and RUN/tensorboard.

    Args:
      run_dir: the run directory.
      is_silent: writes nothing; another process does.
    """
    self._is_silent = is_silent
    if is_silent:
      return
    self._path = os.path.join(run_dir, 'metrics.jsonl')
    if os.path.exists(self._path):
      with open(self._path, 'rb+') as f:
        f.truncate(f.read().rfind(b'\n') + 1)  # a line torn by a kill
    # It imports torch where there is one.
    from tensorboardX import SummaryWriter

    self._board = SummaryWriter(
      os.path.join(run_dir, 'tensorboard'), write_to_disk=True
    )
    self._start_s = time.time()

  def write(self, cycle: int, step: int, scalars: dict[str, float]) -> None:
    """Writes one row.

    Args:
      cycle: -1 is the warm-up.
      step: within the cycle.
      scalars: by `<group>/<name>`; None is left out.
    """
    if self._is_silent:
      return
    scalars = {name: v for name, v in scalars.items() if v is not None}
    row = {
      'cycle': cycle,
      'step': step,
      'time_s': round(time.time() - self._start_s, 3),
      **scalars,
    }
    with open(self._path, 'a', encoding='utf-8') as f:
      f.write(json.dumps(row) + '\n')
    for name, value in scalars.items():
      tag = f'{name.replace("@", "_at_")}/cycle_{cycle:02d}'
      self._board.add_scalar(tag, value, step)

  def report(
    self, cycle: int, group: str, scalars: dict[str, float | None]
  ) -> None:
    """Writes what one stage of a cycle brought, in place of an earlier row.

    A stage that was killed before its artifact was safe is done again.

    Args:
      cycle: -1 is the warm-up.
      group: name of the stage.
      scalars: by name; None is left out.
    """
    self.rewind(cycle, 0, group)
    self.write(cycle, 0, {f'{group}/{name}': v for name, v in scalars.items()})

  def rewind(self, cycle: int, step: int, group: str = 'train') -> None:
    """Forgets the rows of a group in this cycle from this step on.

    A training that resumes from a checkpoint does those steps again.
    """
    if self._is_silent or not os.path.exists(self._path):
      return
    kept = []
    with open(self._path, encoding='utf-8') as f:
      for line in f:
        row = json.loads(line)
        again = row['cycle'] == cycle and row['step'] >= step
        if not (again and any(key.startswith(f'{group}/') for key in row)):
          kept.append(line)
    temporary = self._path + '.tmp'
    with open(temporary, 'w', encoding='utf-8') as f:
      f.writelines(kept)
    os.replace(temporary, self._path)

  def close(self) -> None:
    """Flushes TensorBoard's events."""
    if not self._is_silent:
      self._board.close()
