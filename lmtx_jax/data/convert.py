"""Any source -> a TFDS dataset in the cache, and back as a Dataset."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
import contextlib
import dataclasses
import hashlib
import json
import os
import shutil

from absl import logging
import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2

from lmtx_jax.data import reading
from lmtx_jax.data.corpus import Corpus, Dataset
from lmtx_jax.files import locked
from lmtx_jax.types import Ragged, Record, UserError

_VERSION = 2  # of what is written; names the folder of the cache
_BLOCK = 512  # records handed to the writer at once
_SHARD = 200_000  # records in one array_record file


def home(cache: str) -> str:
  """The folder of all converted datasets in a `--data_cache`."""
  return os.path.join(os.path.expanduser(cache), f'datasets-v{_VERSION}')


def converted(source: reading.Source, cache: str) -> str:
  """The folder of the converted source, which is made if it is not there.

  Memory does not grow with the texts. The folder appears by a rename, so that
  a conversion killed at any moment leaves nothing that could be taken for one.
  """
  folder = os.path.join(home(cache), source.digest()[:32])
  if os.path.isdir(folder):
    return folder
  os.makedirs(home(cache), exist_ok=True)
  with locked(folder + '.lock'):
    if not os.path.isdir(folder):  # it may have come while we waited
      unfinished = folder + '.unfinished'
      shutil.rmtree(unfinished, ignore_errors=True)
      try:
        with _quiet():
          _convert(source, unfinished)
        os.rename(unfinished, folder)
      finally:
        shutil.rmtree(unfinished, ignore_errors=True)
      logging.info('Converted into %s', folder)
  return folder


def opened(
  folder: str, name: str, propensity: tuple[float, float] | None = None
) -> Dataset:
  """Opens a converted dataset; no record is read."""
  with open(os.path.join(folder, 'dataset.json'), encoding='utf-8') as f:
    fingerprints = json.load(f)
  with _quiet():
    builder = tfds.builder_from_directory(os.path.join(folder, 'records'))
    sources = builder.as_data_source(
      deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
    )
  corpora = {}
  for split, fingerprint in fingerprints.items():
    source = _Examples(sources[split])
    targets, filters = (
      _load_ragged(folder, f'{split}_{what}') for what in ('targets', 'filters')
    )
    rows = np.arange(len(source))
    corpora[split] = Corpus(split, fingerprint, source, rows, targets, filters)
  dataset = Dataset(
    name,
    corpora[reading.TRAIN],
    corpora[reading.TEST],
    corpora[reading.LABEL],
  )
  if propensity is None:
    return dataset
  return dataclasses.replace(dataset, propensity=propensity)


class _Examples:
  """Records of a split, read by index.

  Decoding them with TFDS takes many times as long as reading them, for it
  fits each to a description of features; these are three texts and no more.
  """

  def __init__(self, source: Sequence[bytes]):
    """Takes serialised `tf.train.Example`s."""
    self._source = source

  def __len__(self) -> int:
    return len(self._source)

  def __getitems__(self, rows: list[int]) -> list[dict[str, bytes]]:
    records = []
    for raw in self._source.__getitems__(rows):
      feature = tf_example_pb2.Example.FromString(raw).features.feature
      records.append(
        {key: feature[key].bytes_list.value[0] for key in Record._fields}
      )
    return records


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Keeps TFDS from telling of each file that it touches."""
  verbosity = logging.get_verbosity()
  logging.set_verbosity(logging.WARNING)
  try:
    yield
  finally:
    logging.set_verbosity(verbosity)


def _convert(source: reading.Source, folder: str) -> None:
  records = os.path.join(folder, 'records')
  os.makedirs(records)
  # TFDS's GeneratorBasedBuilder collects a split in memory up to 1 GB and then
  # spills it with TensorFlow; its sequential writer needs neither.
  identity = tfds.core.dataset_info.DatasetIdentity(
    name='corpus', version='1.0.0', data_dir=records, module_name=__name__
  )
  text = tfds.features.Text()
  features = tfds.features.FeaturesDict(dict.fromkeys(Record._fields, text))
  info = tfds.core.DatasetInfo(
    builder=identity, features=features, disable_shuffling=True
  )
  writer = tfds.core.SequentialWriter(
    info, max_examples_per_shard=_SHARD, file_format='array_record'
  )
  writer.initialize_splits(list(reading.SPLITS))
  fingerprints, num_labels = {}, 0
  for split in reading.SPLITS:  # labels first: the others refer to them
    part = _SplitConverter(source, split, num_labels)
    block = []
    for record in part.records():
      block.append(record._asdict())
      if len(block) == _BLOCK:
        writer.add_examples({split: block})
        block = []
    if block:
      writer.add_examples({split: block})
    fingerprints[split] = part.finish(folder)
    if split == reading.LABEL:
      num_labels = part.num_records
  writer.close_all()
  with open(os.path.join(folder, 'dataset.json'), 'w', encoding='utf-8') as f:
    json.dump(fingerprints, f)


class _SplitConverter:
  """Checks the records of a split as they pass; gathers their label rows."""

  def __init__(self, source: reading.Source, split: str, num_labels: int):
    self._source = source
    self._split = split
    self._num_labels = num_labels
    self._digest = hashlib.sha256()
    self._uids = array('Q')  # 64-bit hashes: a set of strings would not fit
    self._targets = array('i')
    self._lengths = array('q')

  @property
  def num_records(self) -> int:
    return len(self._uids)

  def records(self) -> Iterator[Record]:
    """The records, well-formed."""
    for row, (record, targets) in enumerate(self._source.records(self._split)):
      record = Record(*(reading.well_formed(text) for text in record))
      if self._split == reading.LABEL:
        self._check_label(record)
      targets = list(dict.fromkeys(targets))  # a label counts once
      for target in targets:
        if not 0 <= target < self._num_labels:
          raise UserError(
            f'{self._source.place(self._split, row)}: label {target} is out '
            f'of range, there are {self._num_labels} (the first is 0)'
          )
      uid = hashlib.blake2b(record.uid.encode(), digest_size=8).digest()
      self._uids.append(int.from_bytes(uid, 'little'))
      self._targets.extend(targets)
      self._lengths.append(len(targets))
      self._digest.update(json.dumps([record, targets]).encode())
      yield record

  def finish(self, folder: str) -> str:
    """Checks the whole, saves the label rows, returns the fingerprint."""
    self._check_duplicates()
    filters = self._read_filters()
    targets = Ragged(
      np.array(self._targets, np.int32),
      np.concatenate([[0], np.cumsum(self._lengths, dtype=np.int64)]),
    ).without(filters)  # what must never be predicted is never counted
    for what, rows in (('targets', targets), ('filters', filters)):
      _save_ragged(folder, f'{self._split}_{what}', rows)
    self._digest.update(filters.values.tobytes() + filters.offsets.tobytes())
    return self._digest.hexdigest()

  def _check_label(self, record: Record) -> None:
    if record.title.strip():
      return
    place = self._source.place(self._split, self.num_records)
    if record.content.strip():
      raise UserError(
        f'{place}: the label has content but no title; its title is its text'
      )
    raise UserError(f'{place}: the label has no text (title is empty)')

  def _check_duplicates(self) -> None:
    uids = np.frombuffer(self._uids, np.uint64)
    order = np.argsort(uids, kind='stable')
    repeats = np.flatnonzero(np.diff(uids[order]) == 0) + 1
    if len(repeats):
      # Of all repeated lines, name the one a reader comes to first.
      where = repeats[np.argmin(order[repeats])]
      first, second = (
        self._source.place(self._split, int(order[i]))
        for i in (where - 1, where)
      )
      raise UserError(f'{second}: duplicate uid, the same as {first}')

  def _read_filters(self) -> Ragged:
    docs, labels = array('q'), array('i')
    limits = (('document', self.num_records), ('label', self._num_labels))
    for place, *pair in self._source.filters(self._split):
      for (what, limit), index in zip(limits, pair, strict=True):
        if not 0 <= index < limit:
          raise UserError(
            f'{place}: {what} {index} is out of range, there are {limit} '
            '(the first is 0)'
          )
      docs.append(pair[0])
      labels.append(pair[1])
    counts = np.bincount(np.array(docs, np.int64), minlength=self.num_records)
    order = np.argsort(np.array(docs, np.int64), kind='stable')
    return Ragged(
      np.array(labels, np.int32)[order],
      np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]),
    )


def _save_ragged(folder: str, name: str, rows: Ragged) -> None:
  for field, values in dataclasses.asdict(rows).items():
    np.save(os.path.join(folder, f'{name}_{field}.npy'), values)


def _load_ragged(folder: str, name: str) -> Ragged:
  return Ragged(
    *(
      np.load(os.path.join(folder, f'{name}_{field.name}.npy'), mmap_mode='r')
      for field in dataclasses.fields(Ragged)
    )
  )
