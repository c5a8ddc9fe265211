"""The page in a real browser."""

import asyncio
import shutil

import chromium
import pytest
from run_fixtures import NUM_LABELS, made_corpus
from service_fixtures import API_KEY, LABELS_KEY, serving

TEXT = made_corpus()['tst'][0]['content']

pytestmark = pytest.mark.skipif(
  chromium.EXECUTABLE is None, reason='no Chromium here'
)


@pytest.fixture
def served(bundle, tmp_path):
  folder = shutil.copytree(bundle, tmp_path / 'bundle')
  with serving(bundle=str(folder)) as service:
    yield service


def browse(service, tmp_path, scenario):
  """Runs a scenario in a browser, and checks what must hold of all of them."""

  async def main():
    async with chromium.tab(tmp_path / 'profile') as tab:
      await tab.go(service.url)
      await tab.wait(
        "!!document.querySelector('#about').textContent.match(/labels/)"
      )
      await scenario(tab)
      assert tab.requests
      assert all(url.startswith((service.url, 'data:')) for url in tab.requests)
      return tab.complaints

  return asyncio.run(asyncio.wait_for(main(), 120))


async def names(tab, listed):
  """Uids of the labels of a list, as they are shown."""
  return await tab.value(
    f"[...document.querySelectorAll('#{listed} button')]"
    '.map((button) => button.dataset.uid)'
  )


async def wait_for_list(tab, listed):
  await tab.wait(f"document.querySelectorAll('#{listed} button').length")
  return await names(tab, listed)


def test_a_document_is_tagged_with_the_keyboard_alone(served, tmp_path):
  (row,) = served.tag(TEXT).json['results']
  expected = [label['uid'] for label in row['labels']]

  async def scenario(tab):
    await tab.type(TEXT)  # the text has the focus from the start
    await tab.press('Enter', ctrl=True)
    assert await wait_for_list(tab, 'tags') == expected
    widths = await tab.value(
      "[...document.querySelectorAll('#tags .bar')]"
      '.map((bar) => bar.getBoundingClientRect().width)'
    )
    assert widths == sorted(widths, reverse=True)
    assert widths[0] > 0
    # From the text to the tags: number, button, first tag; down to the third.
    for _ in range(3):
      await tab.press('Tab')
    await tab.press('ArrowDown')
    await tab.press('ArrowDown')
    await tab.press('ArrowUp')
    await tab.press('Enter')
    near = served.ask('GET', f'/v1/labels/nearest?uid={expected[1]}').json
    assert await wait_for_list(tab, 'nearest') == [
      label['uid'] for label in near['labels']
    ]
    chosen = await tab.value(
      "document.querySelector('#tags [aria-pressed=true]').dataset.uid"
    )
    assert chosen == expected[1]

  assert browse(served, tmp_path, scenario) == []


def test_a_label_is_added_and_seen_at_once(served, tmp_path):
  async def scenario(tab):
    await tab.type('an entirely <b>new</b> label')
    await tab.press('Enter', ctrl=True)
    assert 'new' not in await wait_for_list(tab, 'tags')
    await tab.value("document.getElementById('new-uid').focus()")
    for text in ('new', 'an entirely <b>new</b> label', LABELS_KEY):
      await tab.type(text)
      await tab.press('Tab')
    await tab.press('Enter')
    await tab.wait(
      "document.querySelector('#tags button')?.dataset.uid === 'new'"
    )
    shown = await tab.value("document.querySelector('#tags .name').textContent")
    assert shown == 'an entirely <b>new</b> label'  # text, never markup
    assert await tab.value("document.querySelectorAll('main b').length") == 0
    await tab.wait(
      "document.querySelector('#about').textContent"
      f" === '{NUM_LABELS + 1} labels'"
    )
    assert len(await wait_for_list(tab, 'nearest')) == 10

  assert browse(served, tmp_path, scenario) == []


def test_mistakes_are_told(served, tmp_path):
  async def scenario(tab):
    await tab.press('Enter', ctrl=True)
    await tab.wait(
      "document.querySelector('#tags-note.error')?.textContent"
      " === 'documents.0: has no text'"
    )
    await tab.value(
      "document.getElementById('query').value = 'nowhere';"
      "document.getElementById('find-form').requestSubmit()"
    )
    await tab.wait(
      "document.querySelector('#found-note').textContent.includes('nowhere')"
    )

  complaints = browse(served, tmp_path, scenario)
  assert all('422' in complaint for complaint in complaints)


def test_an_earlier_choice_that_is_answered_later_is_not_shown(
  served, tmp_path
):
  async def scenario(tab):
    await tab.value(
      """(() => {
        const real = window.fetch;
        window.late = false;
        window.fetch = async (path, options) => {
          const answer = await real(path, options);
          if (path.endsWith('uid=L1')) {
            await new Promise((done) => setTimeout(done, 300));
          }
          return answer;
        };
        showNearest({ uid: 'L1', title: 'one' }).then(() => {
          window.late = true;
        });
        showNearest({ uid: 'L2', title: 'two' });
        return true;
      })()"""
    )
    await tab.wait('window.late')
    note = "document.querySelector('#nearest-note').textContent"
    assert await tab.value(note) == 'to two'
    assert 'L2' not in await names(tab, 'nearest')

  assert browse(served, tmp_path, scenario) == []


def test_it_asks_for_the_key_where_one_is_needed(bundle, tmp_path):
  async def scenario(tab):
    await tab.wait("!document.querySelector('#api-key-row').hidden")
    await tab.type(TEXT)
    await tab.press('Tab')
    await tab.type(API_KEY)
    await tab.press('Enter')
    assert len(await wait_for_list(tab, 'tags')) == 10

  with serving(api_keys=(API_KEY,), bundle=str(bundle)) as service:
    assert browse(service, tmp_path, scenario) == []


def test_the_api_page_shows_every_address(served, tmp_path):
  async def scenario(tab):
    await tab.go(f'{served.url}docs')
    await tab.wait("document.querySelectorAll('section').length === 7")
    text = await tab.value('document.body.innerText')
    assert 'POST /v1/tag' in text
    assert 'documents[].content' in text

  assert browse(served, tmp_path, scenario) == []


def test_light_and_dark_differ_and_a_small_screen_needs_no_scrolling_aside(
  served, tmp_path
):
  async def scenario(tab):
    grounds = set()
    for scheme in ('light', 'dark'):
      feature = {'name': 'prefers-color-scheme', 'value': scheme}
      await tab.send('Emulation.setEmulatedMedia', features=[feature])
      grounds.add(
        await tab.value('getComputedStyle(document.body).backgroundColor')
      )
    assert len(grounds) == 2
    await tab.send(
      'Emulation.setDeviceMetricsOverride',
      width=360,
      height=640,
      deviceScaleFactor=1,
      mobile=True,
    )
    assert await tab.value('document.documentElement.scrollWidth') <= 360

  assert browse(served, tmp_path, scenario) == []
