// The live page: the feed of events and the figures of a running site.
//
// Two sources feed it. The stream tells of every change at once; the records of
// the admin API also know those that wait, fail or were ignored. Where the
// stream is refused, since EventSource cannot send a token, the records alone
// do, asked for every two seconds.

import { Feed } from './feed.js';
import { Stream } from './stream.js';
import { Figures } from './figures.js';
import { $, ask, count, followState, pauseSwitch, say, showState, span, token } from './ui.js';

const STATS_EVERY = 2000; // ms
const RECORDS_EVERY = 10_000; // beside a stream
const RECORDS_POLLED = 2000; // instead of one

const feed = new Feed($('#rows'));
const figures = new Figures($('#tiles'));
const stream = new Stream('/api/events?channel=*');
let polling = false;
let asked = 0; // when the records were asked for last
let soon = 0; // timer of the next question

// ---- records and figures ----------------------------------------------------

async function records(limit = 50) {
  asked = Date.now();
  const { events } = await ask(`/admin/events?limit=${limit}`);
  for (const record of events.reverse()) feed.tell(record); // oldest first: new ones land on top
}

async function stats() {
  const now = await ask('/_freshwire/stats');
  figures.take(now, feed.rows);
  say($('#version'), now.version ?? '');
  say($('#uptime'), Number.isFinite(now.uptime_s) ? `up ${span(now.uptime_s)} · position ${now.position || '–'}` : '');
}

async function tick() {
  if (document.hidden) return;
  try {
    await stats();
    if (Date.now() - asked >= (polling ? RECORDS_POLLED : RECORDS_EVERY) - 100) await records();
    problem('');
  } catch (e) {
    if (e.refused) lock();
    else problem(`freshwire does not answer (${e.message}). The figures are of a moment ago.`);
  }
}

function problem(text) {
  $('#problem').hidden = text === '';
  say($('#problem'), text);
}

// ---- who may enter ----------------------------------------------------------

let ticking = 0;

async function enter() {
  try {
    await records(200);
    await stats();
  } catch (e) {
    if (e.refused) return lock();
    problem(`freshwire does not answer (${e.message}).`);
  }
  $('#token-form').hidden = true;
  $('#figures').hidden = $('#events').hidden = false;
  $('#forget').hidden = !token.get();
  clearInterval(ticking);
  ticking = setInterval(tick, STATS_EVERY);
  if (stream.state === 'closed') stream.open();
}

function lock() {
  clearInterval(ticking);
  stream.close();
  if (token.get()) problem('That token is not the one.');
  token.set('');
  $('#forget').hidden = true;
  $('#figures').hidden = $('#events').hidden = true;
  $('#token-form').hidden = false;
  showState($('#state'), { state: 'locked' });
  $('#token').focus();
}

$('#token-form').addEventListener('submit', (e) => {
  e.preventDefault();
  token.set($('#token').value.trim());
  $('#token').value = '';
  problem('');
  enter();
});

$('#forget').addEventListener('click', () => {
  token.set('');
  location.reload();
});

// ---- the stream -------------------------------------------------------------

stream.addEventListener('change', ({ detail }) => {
  feed.heard(detail);
  figures.heard(detail);
});
stream.addEventListener('reset', ({ detail }) => {
  feed.note(`reset (${detail.reason}): the records are read again`);
  clearTimeout(soon);
  soon = setTimeout(() => records().catch(() => {}), 200);
});
followState(stream, $('#state'), (detail) => {
  // Refused: the stream of all channels wants the token in a header.
  polling = detail.state === 'closed' && detail.status !== undefined;
  return polling ? { state: 'polling' } : detail;
});

// ---- filter and pause -------------------------------------------------------

function filter() {
  const words = $('#filter-text').value.toLowerCase().split(/\s+/).filter(Boolean);
  const status = $('#filter-status').value;
  feed.filter((row) => (!status || row.status === status) && words.every((word) => row.text.includes(word)));
}
$('#filter-text').addEventListener('input', filter);
$('#filter-status').addEventListener('change', filter);

pauseSwitch($('#pause'), feed);
feed.addEventListener('size', ({ detail }) => {
  $('#empty').hidden = detail.shown > 0;
  say($('#empty'), detail.all ? 'No event fits the filter.' : 'No events yet. The next webhook that is accepted appears here.');
  say($('#size'), detail.shown === detail.all ? `${count(detail.all)}` : `${count(detail.shown)} of ${count(detail.all)}`);
});

document.addEventListener('visibilitychange', tick);
enter();
