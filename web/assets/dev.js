// The page of `freshwire dev`. It does what a site does: it reads through the
// cached routes, subscribes from the position of what it read, and reads again,
// at least as new, when told. The edit form posts to the demo CMS, which sends
// its webhook as any CMS would.

import { Feed } from './feed.js';
import { Stream } from './stream.js';
import { $, ask, clock, el, followState, json, ms, pauseSwitch, say } from './ui.js';

const LIST = '/content/articles';
const CMS = '/_demo/cms';
const CHANNEL = 'article'; // the content type: what a rule publishes to by default
const AWAY = 5000; // ms of a dropped connection

const feed = new Feed($('#rows'), 50);
const reads = []; // newest last
let stream;
let current = ''; // id of the article shown
let shown = null; // its content
let newest = 0; // seq of the newest change that we were told of

// ---- reading ----------------------------------------------------------------

/** Reads a cached route, at least as new as the seq given. */
async function read(path, after = 0) {
  const headers = after ? { 'Freshwire-After': String(after) } : {};
  const start = performance.now();
  const response = await fetch(path, { headers, cache: 'no-store' });
  const body = await json(response);
  const answer = (name) => response.headers.get(name) ?? '';
  return {
    body,
    took: performance.now() - start,
    cache: answer('X-Cache').toUpperCase(),
    age: answer('Age'),
    seq: answer('Freshwire-Seq'),
    position: answer('Freshwire-Position'),
  };
}

async function showArticle(after = 0) {
  const id = current;
  const node = $('#article');
  node.setAttribute('aria-busy', 'true');
  try {
    const answer = await read(`${LIST}/${encodeURIComponent(id)}`, after);
    if (id !== current) return; // another one was chosen meanwhile
    showRead(answer);
    showContent(answer.body, after > 0);
  } catch (e) {
    if (id === current) showProblem(e);
  } finally {
    node.setAttribute('aria-busy', 'false');
  }
}

function showRead({ cache, age, seq, took }) {
  const badge = $('#read-cache');
  badge.dataset.cache = cache;
  $('#read').dataset.ms = took.toFixed(1);
  say(badge, cache || 'no X-Cache');
  const facts = [ms(took)];
  if (age !== '' && cache !== 'MISS') facts.push(`${age} s old`);
  if (seq) facts.push(`seq ${seq}`);
  say($('#read-facts'), facts.join(' · '));
  reads.push([cache, took]);
  reads.splice(0, reads.length - 6);
  $('#reads').replaceChildren(...reads.map(([c, t]) => el('span', { 'data-cache': c }, `${c || '–'} ${ms(t)}`)));
}

function showContent(article, changed) {
  const before = changed && shown?.id === article.id ? shown : null;
  shown = article;
  const paragraphs = (text) => text.split(/\n{2,}/);
  const old = before ? paragraphs(before.body) : [];
  $('#article-title').replaceChildren(...marked(before?.title, article.title));
  $('#article-body').replaceChildren(
    ...paragraphs(article.body).map((text, i) => el('p', {}, ...marked(before ? (old[i] ?? '') : undefined, text))),
  );
  $('#article').dataset.version = article.version;
  say($('#article-meta'), `The Mill Lane Bakery · version ${article.version} · ${clock(Date.parse(article.updatedAt)).slice(0, 5)}`);
  fillForm(article);
}

/** The text, with a <mark> around what is not as before: one stretch of words. */
function marked(before, text) {
  if (before === undefined || before === text) return [text];
  const [a, b] = [before.split(/(\s+)/), text.split(/(\s+)/)];
  let head = 0;
  while (head < Math.min(a.length, b.length) && a[head] === b[head]) head++;
  let tail = 0;
  while (tail < Math.min(a.length, b.length) - head && a.at(-1 - tail) === b.at(-1 - tail)) tail++;
  const part = (from, to) => b.slice(from, to).join('');
  const middle = part(head, b.length - tail);
  return [part(0, head), middle ? el('mark', {}, middle) : '', part(b.length - tail)];
}

function showProblem(e) {
  shown = null;
  say($('#read-cache'), String(e.status ?? 'error'));
  $('#read-cache').dataset.cache = 'ERROR';
  say($('#read-facts'), e.message);
  say($('#article-title'), e.status === 404 ? 'There is no such article' : 'The article cannot be read');
  say($('#article-meta'), '');
  $('#article-body').replaceChildren();
}

async function showList(after = 0) {
  const answer = await read(LIST, after);
  const { articles } = answer.body;
  const chosen = location.hash.slice(1);
  current ||= articles.some((a) => a.id === chosen) ? chosen : articles[0].id;
  const tabs = $('#articles');
  articles.forEach(({ id, title }, i) => {
    // In place: a tab may have the focus. Articles only ever grow in number.
    say(tabs.children[i] ?? tabs.appendChild(el('a', { href: `#${id}`, 'data-article': id })), title);
  });
  markTab();
  return answer;
}

function markTab() {
  const tabs = $('#articles');
  for (const a of tabs.children) {
    a.ariaCurrent = a.dataset.article === current ? 'page' : null;
    if (a.ariaCurrent) tabs.scrollLeft = a.offsetLeft - tabs.offsetLeft - 48;
  }
}

addEventListener('hashchange', () => {
  current = location.hash.slice(1) || current;
  markTab();
  $('#edit').reset();
  say($('#edit-status'), '');
  showArticle(newest);
  showCurl();
});

$('#reread').addEventListener('click', () => showArticle());

// ---- the wire ---------------------------------------------------------------

/** Told that something changed: the row first, then the article if it is ours. */
async function onChange({ detail }) {
  feed.heard(detail);
  const { data } = detail;
  newest = Math.max(newest, data.seq);
  // A public page would wait some 0 to 300 ms at random here, lest all its readers ask at once.
  if (data.type === 'article') await refresh(data.entity === current || !data.entity);
}

async function refresh(article) {
  await Promise.all([article && showArticle(newest), showList(newest).catch(showProblem)]);
  if (article) say($('#edit-status'), '');
}

function subscribe(position) {
  stream = new Stream(`/api/events?channel=${CHANNEL}`, position);
  stream.addEventListener('change', onChange);
  stream.addEventListener('reset', ({ detail }) => {
    feed.note(`reset (${detail.reason}): everything is read again`);
    refresh(true);
  });
  stream.addEventListener('state', ({ detail }) => ($('#drop').disabled = detail.state === 'dropped'));
  followState(stream, $('#state'));
  stream.open();
}

$('#drop').addEventListener('click', () => stream?.drop(AWAY));

pauseSwitch($('#pause'), feed);
feed.addEventListener('size', ({ detail }) => ($('#empty').hidden = detail.all > 0));

// ---- the editor's desk ------------------------------------------------------

// Fields that somebody is writing in are left alone; reset() goes back to the defaults.
function fillForm(article) {
  for (const [field, text] of [[$('#edit-title'), article.title], [$('#edit-body'), article.body]]) {
    const touched = field.value !== field.defaultValue;
    field.defaultValue = text;
    if (!touched) field.value = text;
  }
}

async function post(path, text) {
  const response = await fetch(CMS + path, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify(text),
  });
  return json(response);
}

$('#edit').addEventListener('submit', async (e) => {
  e.preventDefault();
  const [title, body] = [$('#edit-title'), $('#edit-body')];
  $('#publish').disabled = true;
  try {
    const article = await post(`/edit/${encodeURIComponent(current)}`, { title: title.value, body: body.value });
    // Stored: what is in the fields is what stands there now.
    title.defaultValue = title.value = article.title;
    body.defaultValue = body.value = article.body;
    say($('#edit-status'), stream?.state === 'open' ? `Version ${article.version} is stored.` : `Version ${article.version} is stored. This tab will hear of it when it is back.`);
  } catch (e) {
    say($('#edit-status'), e.message);
  } finally {
    $('#publish').disabled = false;
  }
});

$('#edit-body').addEventListener('keydown', (e) => {
  if (e.key === 'Enter' && (e.ctrlKey || e.metaKey)) $('#edit').requestSubmit();
});

$('#create').addEventListener('click', async () => {
  try {
    const { id } = await post('/create', { title: 'A note from the counter', body: 'Write here what happened since the last batch.' });
    location.hash = id;
    $('#edit-title').focus();
  } catch (e) {
    say($('#edit-status'), e.message);
  }
});

// ---- curl -------------------------------------------------------------------

async function showCurl() {
  const response = await fetch(`/_demo/curl?id=${encodeURIComponent(current)}`, { cache: 'no-store' }).catch(() => null);
  const command = response?.ok ? (await response.text()).trim() : '';
  say($('#curl'), command || 'No command for this article.');
  return command;
}

// Signed anew for each copy: the one shown may have expired, or been used.
$('#copy').addEventListener('click', async () => {
  const command = await showCurl();
  try {
    await navigator.clipboard.writeText(command + '\n');
    say($('#copy'), 'Copied');
  } catch {
    getSelection().selectAllChildren($('#curl')); // no clipboard without https: Ctrl-C does it
    say($('#copy'), 'Press Ctrl-C');
  }
  setTimeout(() => say($('#copy'), 'Copy'), 2000);
});

// ---- start ------------------------------------------------------------------

async function start() {
  try {
    const { position } = await showList();
    // From the position of the first read: nothing falls between it and the stream.
    subscribe(position);
    showArticle();
    showCurl();
  } catch (e) {
    showProblem(e);
    setTimeout(start, 2000);
  }
}
start();

// What happened before this page was opened, if we may know.
ask('/admin/events?limit=20').then(
  ({ events }) => events.forEach((record) => feed.tell(record)),
  () => {},
);
