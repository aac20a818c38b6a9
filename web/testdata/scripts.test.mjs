// What the page's modules promise without a browser: times are read to the
// microsecond, steps add up, and a stream is never silent for good. Run by
// web_test.go, in a directory that holds the modules.

import assert from 'node:assert/strict';
import { mock, test } from 'node:test';
import { pathToFileURL } from 'node:url';

// The browser, as far as the modules touch it.
const page = new EventTarget();
globalThis.document = Object.assign(new EventTarget(), { hidden: false });
globalThis.addEventListener = page.addEventListener.bind(page);
const answers = []; // statuses of the next fetches
const load = (name) => import(pathToFileURL(`${process.cwd()}/${name}`));
globalThis.fetch = async () => ({ status: answers.shift() ?? 503, text: async () => '' });

class Source extends EventTarget {
  static CONNECTING = 0;
  static CLOSED = 2;
  static all = [];
  readyState = 0;
  constructor(url) {
    super();
    this.url = url;
    Source.all.push(this);
  }
  close() {
    this.readyState = Source.CLOSED;
    this.hungUp = true;
  }
  say(name, data = {}, lastEventId = '') {
    this.dispatchEvent(Object.assign(new Event(name), { data: JSON.stringify(data), lastEventId }));
  }
  fail(readyState) {
    this.readyState = readyState;
    this.onerror();
  }
}
globalThis.EventSource = Source;

mock.timers.enable({ apis: ['setTimeout', 'setInterval', 'Date'], now: Date.parse('2026-11-20T12:00:00Z') });
const settle = () => new Promise((resolve) => setImmediate(resolve));

const { Stream } = await load('stream.js');
const { ms, span, timestamp } = await load('ui.js');
const { stepsOf } = await load('feed.js');

const last = () => Source.all.at(-1);
function open(position = '') {
  const stream = new Stream('/api/events?channel=a', position);
  const seen = [];
  for (const name of ['state', 'change', 'reset']) stream.addEventListener(name, (e) => seen.push({ name, ...e.detail }));
  stream.open();
  return { stream, seen, states: () => seen.filter((s) => s.name === 'state').map((s) => s.state) };
}

test('times are read with all of their decimals', () => {
  const base = Date.parse('2026-11-20T12:00:00Z');
  assert.ok(Math.abs(timestamp('2026-11-20T12:00:00.1234Z') - base - 123.4) < 0.001);
  assert.equal(timestamp('2026-11-20T13:00:00+01:00') - base, 0);
  for (const text of ['', undefined, 'yesterday', '0001-01-01T00:00:00Z']) assert.ok(Number.isNaN(timestamp(text)), text);
  assert.deepEqual([0.04, 9.94, 9.96, 999, 1500, 90_000, NaN].map(ms), ['0.0 ms', '9.9 ms', '10 ms', '999 ms', '1.5 s', '1.5 min', '–']);
  assert.deepEqual([59, 61, 7300, 200_000].map(span), ['59 s', '1 min', '2 h', '2 days']);
});

test('steps add up to the total, and a missing one takes no time from the next', () => {
  const at = (n) => `2026-11-20T12:00:00.${String(n).padStart(3, '0')}Z`;
  const record = { steps: [['received', 0], ['queued', 1], ['started', 8], ['planned', 8], ['invalidated', 10], ['settled', 9], ['published', 12], ['done', 13]].map(([step, n]) => ({ step, at: at(n) })) };
  const { list, total } = stepsOf(record, Date.parse(at(15)));
  const took = Object.fromEntries(list.map((s) => [s.name, s.took]));
  assert.deepEqual(took, { accept: 1, queue: 7, plan: 0, invalidate: 2, barrier: 0, reclaim: NaN, site: NaN, log: 2, browser: 3 });
  assert.equal(total, 15);
  assert.equal(stepsOf(record, Date.parse(at(15)), true).list.at(-1).name, 'away');
  assert.ok(Number.isNaN(stepsOf(null).total));
});

test('a stream goes on from where it was, and marks what it missed', () => {
  const { stream, seen } = open('5-0');
  assert.match(last().url, /&lastEventId=5-0$/);
  last().say('open');
  last().say('ready', { position: '5-0' }, '5-0');
  mock.timers.tick(10);
  last().say('message', { id: 'x', at: new Date().toISOString() }, '6-0');
  stream.drop(5000);
  assert.ok(last().hungUp);
  mock.timers.tick(4999);
  assert.equal(stream.state, 'dropped');
  mock.timers.tick(1);
  assert.match(last().url, /lastEventId=6-0$/);
  last().say('open');
  last().say('message', { id: 'y', at: new Date(Date.now() - 3000).toISOString() }, '7-0');
  assert.deepEqual(seen.filter((s) => s.name === 'change').map((s) => [s.data.id, s.replayed]), [['x', false], ['y', true]]);
  last().say('reset', { reason: 'history_lost' }, '9-0');
  assert.equal(seen.at(-1).reason, 'history_lost');
  assert.equal(stream.position, '9-0');
  stream.close();
});

test('a line that died without a word is opened again', () => {
  const { stream } = open();
  last().say('open');
  const first = last();
  for (let i = 0; i < 4; i++) {
    mock.timers.tick(20_000);
    first.say('ping');
  }
  assert.equal(last(), first, 'pings keep it');
  mock.timers.tick(60_000);
  assert.notEqual(last(), first);
  assert.ok(first.hungUp);
  stream.close();
});

test('a refused answer is tried again with growing pauses, unless it is final', async () => {
  const { stream, states } = open();
  const waits = [];
  for (let i = 0; i < 8; i++) {
    const before = last();
    const since = Date.now();
    before.fail(Source.CLOSED);
    await settle();
    assert.equal(stream.state, 'retrying');
    for (let t = 0; last() === before && t < 31_000; t += 50) mock.timers.tick(50);
    assert.notEqual(last(), before, 'it calls again');
    waits.push(Date.now() - since);
  }
  assert.ok(waits[0] >= 500 && waits[0] <= 1050, `first pause ${waits[0]}`);
  assert.ok(waits[7] >= 15_000 && waits[7] <= 30_050, `last pause ${waits[7]}`);
  answers.push(403);
  last().fail(Source.CLOSED);
  await settle();
  assert.equal(stream.state, 'closed');
  const { length } = Source.all;
  mock.timers.tick(120_000);
  assert.equal(Source.all.length, length, 'final is final');
  assert.ok(!states().includes('open'));
});

test('a goaway is obeyed, for as long as it says', () => {
  const { stream } = open();
  last().say('open');
  const first = last();
  first.say('goaway', { reason: 'drain', retryAfterMs: 1700 });
  assert.ok(first.hungUp);
  mock.timers.tick(1699);
  assert.equal(last(), first);
  mock.timers.tick(1);
  assert.notEqual(last(), first);
  stream.close();
});

test('EventSource repairs a broken line itself', () => {
  const { stream, states } = open();
  last().say('open');
  const first = last();
  first.fail(Source.CONNECTING);
  assert.equal(stream.state, 'retrying');
  first.say('open');
  assert.equal(last(), first);
  assert.deepEqual(states(), ['connecting', 'open', 'retrying', 'open']);
  stream.close();
});

test('a page that is looked at again does not wait', () => {
  const { stream } = open();
  last().say('open');
  last().say('goaway', { retryAfterMs: 20_000 });
  const before = last();
  document.dispatchEvent(new Event('visibilitychange'));
  assert.notEqual(last(), before);
  stream.close();
});
