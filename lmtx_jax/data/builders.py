"""The one way in: a name or a folder -> a Dataset read from the cache."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex

from lmtx_jax.config import SourceConfig
from lmtx_jax.data import convert, reading
from lmtx_jax.data.corpus import Dataset
from lmtx_jax.data.eurlex57k import Eurlex57k
from lmtx_jax.data.raw_text import LabelMapFolder, RawText
from lmtx_jax.data.scipy_see_also import ScipySeeAlso
from lmtx_jax.types import UserError


@dataclasses.dataclass(frozen=True)
class NamedDataset:
  """A dataset whose files their owners distribute.

  Attributes:
    title: its name in the literature.
    sizes: its training documents, test documents and labels; for the paper's
      sets as in table 1 of the LMTX paper.
    propensity: A and B of Jain et al. 2016, by the kind of the set.
  """

  title: str
  sizes: tuple[int, int, int]
  propensity: tuple[float, float] = (0.55, 1.5)


EMBEDDED = 'scipy_see_also'
_WIKIPEDIA = (0.5, 0.4)
NAMED = {
  'eurlex4k': NamedDataset('EURLex-4K', (15511, 3803, 3956)),
  'wiki10_31k': NamedDataset('Wiki10-31K', (14146, 6616, 30938)),
  'amazoncat13k': NamedDataset('AmazonCat-13K', (1186239, 306782, 13330)),
  'wikiseealso320k': NamedDataset(
    'LF-WikiSeeAlso-320K', (693082, 177515, 312330), _WIKIPEDIA
  ),
  'wiki500k': NamedDataset(
    'LF-Wikipedia-500K', (1813391, 783743, 501070), _WIKIPEDIA
  ),
  'eurlex57k': NamedDataset('EURLEX57K', (45000, 6000, 4271)),
}


def load_dataset(config: SourceConfig) -> Dataset:
  """Opens the dataset that the flags name; converts it if it is new.

  Raises:
    UserError: both flags or neither are set, the name is unknown or not
      prepared, or the folder's files are not right.
  """
  if config.dataset and config.data_dir:
    raise UserError(
      f'--dataset={config.dataset} and --data_dir={config.data_dir} are both '
      'set; clear one of them (--dataset= or --data_dir=)'
    )
  if config.data_dir:
    if not os.path.isdir(config.data_dir):
      raise UserError(f'--data_dir={config.data_dir}: no such folder')
    source = reading.DataFolder(config.data_dir)
    name = os.path.basename(os.path.abspath(config.data_dir))
    return convert.opened(convert.converted(source, config.data_cache), name)
  if not config.dataset:
    raise UserError('neither --dataset nor --data_dir is set')
  slug = slug_of(config.dataset)
  if slug == EMBEDDED:
    folder = convert.converted(ScipySeeAlso(), config.data_cache)
    return convert.opened(folder, slug)
  folder = _prepared_folder(slug, config.data_cache)
  if not folder:
    command = ['python', '-m', 'lmtx_jax.prepare', f'--dataset={slug}']
    if config.data_cache != SourceConfig.data_cache:
      command.append(f'--data_cache={config.data_cache}')
    raise UserError(
      f'--dataset={slug} is not prepared; get the files of '
      f'{NAMED[slug].title} from their owners, then run: '
      f'{shlex.join(command)} --source_dir=FOLDER'
    )
  return convert.opened(folder, slug, NAMED[slug].propensity)


def prepare_dataset(slug: str, source_dir: str, data_cache: str) -> None:
  """Converts the owners' files of a named dataset; `slug` then loads it."""
  if slug == EMBEDDED:
    raise UserError(
      f'--source_dir={source_dir}: {EMBEDDED} is made from the installed '
      'packages and takes no files; leave the flag out'
    )
  folder = convert.converted(_source_in(source_dir), data_cache)
  pointer = _pointer(slug, data_cache)
  with open(pointer + '.unfinished', 'w', encoding='utf-8') as f:
    json.dump(os.path.basename(folder), f)
  os.replace(pointer + '.unfinished', pointer)


def slug_of(name: str) -> str:
  """The canonical name: of a slug or title, in any case and punctuation."""
  slugs = {
    _letters(alias): slug
    for slug, item in NAMED.items()
    for alias in (slug, item.title)
  }
  slugs[_letters(EMBEDDED)] = EMBEDDED
  if _letters(name) not in slugs:
    raise UserError(
      f'--dataset={name}: unknown; the names are '
      f'{", ".join((EMBEDDED, *NAMED))}'
    )
  return slugs[_letters(name)]


def _source_in(folder: str) -> reading.Source:
  """The source of whichever layout a folder has."""
  if not os.path.isdir(folder):
    raise UserError(f'--source_dir={folder}: no such folder')
  if reading.find(folder, 'trn.json', required=False):
    if reading.find(folder, 'lbl.json', required=False):
      return reading.DataFolder(folder)
    return LabelMapFolder(folder)
  for layout in (RawText, Eurlex57k):
    if layout.is_in(folder):
      return layout(folder)
  raise UserError(
    f'--source_dir={folder}: no layout that is known (trn.json, '
    'train_raw_texts.txt, X.trn.txt, or train/*.json)'
  )


def _pointer(slug: str, data_cache: str) -> str:
  """The file that says which converted dataset a name stands for."""
  return os.path.join(convert.home(data_cache), f'{slug}.json')


def _prepared_folder(slug: str, data_cache: str) -> str:
  pointer = _pointer(slug, data_cache)
  if not os.path.exists(pointer):
    return ''
  with open(pointer, encoding='utf-8') as f:
    folder = os.path.join(convert.home(data_cache), json.load(f))
  return folder if os.path.isdir(folder) else ''


def _letters(name: str) -> str:
  return re.sub('[^a-z0-9]', '', name.lower())
