// What a stream promises when it has a line of its own: it is never silent for
// good, and never calls where it should not. Run by web_test.go, in a directory
// that holds the modules; tabs.test.mjs is about many.

import assert from 'node:assert/strict';
import { setMaxListeners } from 'node:events';
import { mock, test } from 'node:test';
import { pathToFileURL } from 'node:url';

// The browser, as far as the modules touch it. It has no locks.
const page = new EventTarget();
delete globalThis.navigator;
globalThis.document = Object.assign(new EventTarget(), { hidden: false });
setMaxListeners(0, page, document);
globalThis.location = { href: 'http://localhost/' };
globalThis.addEventListener = page.addEventListener.bind(page);
const answers = []; // of the next fetches: a status, [status, Retry-After], or never
let asked = 0;
globalThis.fetch = (_, { signal }) => {
  asked++;
  const answer = answers.shift() ?? 503;
  if (answer === 'never') return new Promise((_, reject) => signal.addEventListener('abort', reject));
  const [status, after] = [answer].flat();
  return Promise.resolve({ status, headers: new Headers(after ? { 'Retry-After': after } : {}) });
};

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
const { Stream } = await import(pathToFileURL(`${process.cwd()}/stream.js`));

const last = () => Source.all.at(-1);
function open(position = '') {
  const stream = new Stream('/api/events?channel=a', position);
  const seen = [];
  for (const name of ['state', 'change', 'reset']) stream.addEventListener(name, (e) => seen.push({ name, ...e.detail }));
  stream.open();
  const told = (name) => seen.filter((s) => s.name === name);
  return { stream, told, states: () => told('state').map((s) => s.state) };
}

/** The time until another line is opened. */
function untilNext(limit = 31_000) {
  const before = last();
  const since = Date.now();
  while (last() === before && Date.now() - since < limit) mock.timers.tick(50);
  assert.notEqual(last(), before, 'it calls again');
  return Date.now() - since;
}

async function refuse(...answer) {
  answers.push(...answer);
  last().fail(Source.CLOSED);
  await settle();
}

test('a stream goes on from where it was, and marks what it missed', () => {
  const { stream, told } = open('5-0');
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
  assert.deepEqual(told('change').map((s) => [s.data.id, s.replayed]), [['x', false], ['y', true]]);
  last().say('reset', { reason: 'history_lost' }, '9-0');
  assert.deepEqual(told('reset').map((s) => s.reason), ['history_lost']);
  assert.equal(stream.position, '9-0');
  stream.close();
});

test('what is not newer is told once, and what has no position each time', () => {
  const { stream, told } = open();
  const say = (id, position) => last().say('message', { id }, position);
  last().say('open');
  last().say('ready', {}, '9-0');
  say('a', '9-1');
  say('a', '9-0');
  say('b', '10-0'); // newer as a number, not as text
  say('a', '9-1');
  say('news', '9-1'); // without an id the browser repeats the last one
  say('c', '18446744073709551615-18446744073709551614');
  say('d', '18446744073709551615-18446744073709551615');
  assert.deepEqual(told('change').map((s) => s.data.id), ['a', 'b', 'news', 'c', 'd']);
  stream.close();
});

test('a reset counts, wherever it leads', () => {
  const { stream, told } = open('900-0');
  last().say('open');
  last().say('reset', { reason: 'store_changed' }, '20-0'); // a store whose clock is behind
  last().say('message', { id: 'a' }, '21-0');
  assert.deepEqual(told('change').map((s) => s.data.id), ['a']);
  stream.drop(0);
  mock.timers.tick(0);
  assert.match(last().url, /lastEventId=21-0$/);
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
    await refuse([502, 404, 429][i % 3]);
    assert.equal(stream.state, 'retrying');
    waits.push(untilNext());
  }
  assert.ok(waits[0] >= 500 && waits[0] <= 1050, `first pause ${waits[0]}`);
  assert.ok(waits[7] >= 15_000 && waits[7] <= 30_050, `last pause ${waits[7]}`);
  assert.ok(!states().includes('open'));
  for (const status of [204, 403]) {
    await refuse(status);
    assert.equal(stream.state, 'closed');
    const { length } = Source.all;
    mock.timers.tick(120_000);
    document.dispatchEvent(new Event('visibilitychange'));
    assert.equal(Source.all.length, length, 'final is final');
    stream.open();
    assert.equal(Source.all.length, length + 1, 'until somebody asks again');
  }
  stream.close();
});

test('pauses start anew after a line that lived, not after one that only opened', async () => {
  const { stream } = open();
  const afterLife = async (life) => {
    last().say('open');
    for (let t = 0; t < life; t += 1000) {
      mock.timers.tick(1000);
      last().say('ping');
    }
    await refuse(502);
    return untilNext();
  };
  for (let i = 0; i < 6; i++) await afterLife(1000);
  const short = await afterLife(1000);
  assert.ok(short >= 15_000, `a server that falls over at once is called again after ${short} ms`);
  mock.timers.tick(60_000);
  const long = await afterLife(11_000);
  assert.ok(long <= 1050, `after a line that lived, ${long} ms`);
  await refuse(502);
  const later = untilNext();
  assert.ok(later >= 1000, `and then they grow, though it once lived: ${later} ms`);
  stream.close();
});

test('a server that names a time is left alone for so long', async () => {
  const { stream } = open();
  await refuse([429, '20']);
  const wait = untilNext();
  assert.ok(wait >= 20_000 && wait <= 20_050, `${wait} ms`);
  last().say('open');
  last().say('goaway', { reason: 'drain', retryAfterMs: 1700 });
  assert.ok(last().hungUp);
  const goaway = untilNext();
  assert.ok(goaway >= 1700 && goaway <= 1750, `${goaway} ms`);
  stream.close();
});

test('a question that nobody answers ends', async () => {
  const { stream } = open();
  const before = asked;
  await refuse('never');
  assert.equal(asked, before + 1);
  const wait = untilNext();
  assert.ok(wait >= 10_000, `${wait} ms`);
  await settle();
  assert.ok(!last().hungUp, 'the answer that never came changes nothing any more');
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

test('a page that is looked at again, or has its network back, does not wait', () => {
  const { stream } = open();
  for (const wake of [() => document.dispatchEvent(new Event('visibilitychange')), () => page.dispatchEvent(new Event('online'))]) {
    last().say('open');
    last().say('goaway', { retryAfterMs: 20_000 });
    const before = last();
    mock.timers.tick(1000);
    wake();
    const called = last();
    assert.notEqual(called, before);
    wake();
    assert.equal(last(), called, 'once is enough');
    mock.timers.tick(1000);
    called.fail(Source.CONNECTING); // it rests, and the browser does not tell for how long
    wake();
    assert.notEqual(last(), called);
  }
  stream.close();
});

test('a page that is frozen or put away hangs up, and goes on when it is back', () => {
  const { stream } = open();
  const steps = [
    [document, 'freeze', 'resume', {}],
    [page, 'pagehide', 'pageshow', { persisted: true }],
  ];
  for (const [target, away, back, detail] of steps) {
    last().say('open');
    last().say('ready', {}, '7-0');
    const before = last();
    target.dispatchEvent(new Event(away));
    assert.ok(before.hungUp);
    mock.timers.tick(120_000);
    assert.equal(last(), before, 'no timer opens it meanwhile');
    target.dispatchEvent(Object.assign(new Event(back), detail));
    assert.match(last().url, /lastEventId=7-0$/);
  }
  stream.close();
  document.dispatchEvent(new Event('resume'));
  assert.ok(last().hungUp, 'a closed stream stays closed');
});
