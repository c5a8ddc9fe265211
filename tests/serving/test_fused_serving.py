"""A service whose bundle ranks by words too."""

import shutil

from run_fixtures import check_same, made_corpus
from service_fixtures import serving

from lmtx_jax.bundle import Bundle
from lmtx_jax.types import Record

ROWS = [
  {key: row[key] for key in ('uid', 'title', 'content')}
  for row in made_corpus()['tst']
]


def test_tags_as_the_bundle_does_and_ranks_new_labels(fused_run, tmp_path):
  folder = shutil.copytree(fused_run / 'export', tmp_path / 'bundle')
  records = [Record(**row) for row in ROWS]
  with serving(bundle=str(folder)) as service:

    def served(top_k):
      body = {'documents': ROWS, 'top_k': top_k}
      return service.ask('POST', '/v1/tag', body).json['results']

    bundle = Bundle(str(folder))
    check_same(served(5), bundle.predictions(records, 5))
    check_same(served(24), bundle.predictions(records, 24))
    word = ROWS[0]['content'].split()[1]
    assert service.add('new', f'unheard {word}').status == 201
    assert bundle.reload()
    after = bundle.predictions(records, 5)
    check_same(served(5), after)
    (row,) = service.tag('unheard', top_k=1).json['results']
    assert row['labels'][0]['uid'] == 'new'
    near = service.ask('GET', '/v1/labels/nearest?uid=new&top_k=3').json
    assert max(label['score'] for label in near['labels']) < 1.001  # cosines
