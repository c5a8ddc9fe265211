'use strict';

// The page of the service: tags a document, shows nearest labels, finds and
// adds labels. Texts only ever become text nodes.

const byId = (id) => document.getElementById(id);
const keys = { api: '', labels: '' };
let tagged = null;  // the last document that was tagged
let added = '';  // uid of the label that was added last
let chosen = 0;  // counts the labels that were chosen

async function ask(path, options = {}, key = keys.api || keys.labels) {
  const headers = { ...options.headers };
  if (key) headers.Authorization = `Bearer ${key}`;
  if (options.body) headers['Content-Type'] = 'application/json';
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch {
    throw new Error('the service does not answer');
  }
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error.message);
  return answer;
}

function note(id, text, isError = false) {
  const element = byId(id);
  element.textContent = text;
  element.classList.toggle('error', isError);
}

// A list of labels, each a button with its score as a bar.
function show(list, labels) {
  const top = Math.max(1, ...labels.map((label) => label.score ?? 0));
  list.replaceChildren(...labels.map((label) => {
    const button = document.createElement('button');
    button.type = 'button';
    button.dataset.uid = label.uid;
    button.title = label.uid;
    button.setAttribute('aria-pressed', 'false');
    button.classList.toggle('new', label.uid === added);
    const part = (name, text) => {
      const element = document.createElement('span');
      element.className = name;
      element.textContent = text;
      button.append(element);
      return element;
    };
    if (label.score !== undefined) {
      const bar = part('bar', '');
      bar.style.width = `${100 * Math.max(0, label.score) / top}%`;
    }
    part('name', label.title || label.uid);
    if (label.score !== undefined) part('score', label.score.toFixed(3));
    button.addEventListener('click', () => showNearest(label));
    const item = document.createElement('li');
    item.append(button);
    return item;
  }));
}

async function tag() {
  try {
    const answer = await ask('v1/tag', {
      method: 'POST',
      body: JSON.stringify(tagged),
    });
    const labels = answer.results[0].labels;
    show(byId('tags'), labels);
    note('tags-note', labels.length === 1 ? '1 tag' : `${labels.length} tags`);
  } catch (e) {
    byId('tags').replaceChildren();
    note('tags-note', e.message, true);
  }
}

async function showNearest(label) {
  const turn = ++chosen;  // the answer to an earlier one may come later
  for (const button of document.querySelectorAll('.bars button')) {
    const isChosen = button.dataset.uid === label.uid;
    button.setAttribute('aria-pressed', String(isChosen));
  }
  try {
    const uid = encodeURIComponent(label.uid);
    const answer = await ask(`v1/labels/nearest?uid=${uid}`);
    if (turn !== chosen) return;
    show(byId('nearest'), answer.labels);
    note('nearest-note', `to ${label.title || label.uid}`);
  } catch (e) {
    if (turn !== chosen) return;
    byId('nearest').replaceChildren();
    note('nearest-note', e.message, true);
  }
}

async function find() {
  const query = byId('query').value;
  try {
    const path = `v1/labels?limit=10&query=${encodeURIComponent(query)}`;
    const { labels, more } = await ask(path);
    show(byId('found'), labels);
    note('found-note', !labels.length ? `no label holds \u201c${query}\u201d`
      : more ? `the first ${labels.length}; there are more` : '');
  } catch (e) {
    byId('found').replaceChildren();
    note('found-note', e.message, true);
  }
}

async function add() {
  const label = {
    uid: byId('new-uid').value.trim(),
    title: byId('new-title').value.trim(),
  };
  note('add-note', 'adding');
  try {
    await ask('v1/labels', {
      method: 'POST',
      body: JSON.stringify({ labels: [label] }),
    }, keys.labels);
    added = label.uid;
    byId('new-uid').value = byId('new-title').value = '';
    note('add-note', `added ${label.title}`);
    await Promise.all([about(), tagged && tag(), showNearest(label)]);
    byId('new-uid').focus();
  } catch (e) {
    note('add-note', e.message, true);
  }
}

async function about() {
  try {
    const health = await ask('health');
    const count = health.num_labels.toLocaleString('en');
    byId('about').textContent = `${count} labels`;
    byId('about').classList.remove('error');
    byId('api-key-row').hidden = !health.needs_key;
    byId('add-form').hidden = !health.labels_can_change;
    byId('no-add').hidden = health.labels_can_change;
    const topK = byId('top-k');
    topK.max = health.max_top_k;
    if (Number(topK.value) > health.max_top_k) topK.value = health.max_top_k;
  } catch (e) {
    note('about', e.message, true);
  }
}

// One request at a time: a form's button waits for the answer.
function onSubmit(id, action) {
  byId(id).addEventListener('submit', async (event) => {
    event.preventDefault();
    const button = event.target.querySelector('[type=submit]');
    if (button.disabled) return;
    button.disabled = true;
    keys.api = byId('api-key').value.trim();
    keys.labels = byId('labels-key').value.trim();
    try {
      await action();
    } finally {
      button.disabled = false;
    }
  });
}

onSubmit('tag-form', () => {
  const title = byId('title').value.trim();
  const content = byId('content').value;
  tagged = {
    documents: [title ? { title, content } : { content }],
    top_k: Number(byId('top-k').value),
  };
  return tag();
});
onSubmit('find-form', find);
onSubmit('add-form', add);

byId('content').addEventListener('keydown', (event) => {
  if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) {
    byId('tag-form').requestSubmit();
  }
});

// Up and down go from label to label, as in any list.
for (const list of document.querySelectorAll('.bars')) {
  list.addEventListener('keydown', (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step) return;
    const buttons = [...list.querySelectorAll('button')];
    const next = buttons[buttons.indexOf(document.activeElement) + step];
    if (next) {
      event.preventDefault();
      next.focus();
    }
  });
}

about();
