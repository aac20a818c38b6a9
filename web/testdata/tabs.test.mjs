// What the tabs of one browser promise each other: one line, nothing missed,
// nothing told twice, whoever leads and however they come and go. Run by
// web_test.go, in a directory that holds the modules.
//
// The browser, its clock and the server are models: every message may be late,
// tabs hang, freeze, and die without a word. Variants of the modules that lack
// one of their parts must be found out by the same judge.

import assert from 'node:assert/strict';
import { AsyncLocalStorage } from 'node:async_hooks';
import { setMaxListeners } from 'node:events';
import { cpSync, readFileSync, writeFileSync } from 'node:fs';
import { test } from 'node:test';
import { pathToFileURL } from 'node:url';

const settle = () => new Promise((resolve) => setImmediate(resolve));
const inTab = new AsyncLocalStorage(); // whose code runs
const URL_A = '/api/events?channel=a';

// ---- the model --------------------------------------------------------------

let world;

class World {
  now = Date.parse('2026-11-20T12:00:00Z');
  timers = [];
  serial = 0;
  tabs = [];
  sources = new Set();
  channels = new Set();
  locks = new Map(); // name → {holder, queue}
  log = []; // numbers of changes; the position of n is "n-0"
  oldest = 1; // changes before it are forgotten
  server = 'up'; // refuses: 502, gone: nobody answers, or a final status
  calls = 0;
  words = 0; // between tabs

  constructor(Stream, seed = 1) {
    this.Stream = Stream;
    this.seed = seed;
    world = this;
  }

  random(n) {
    this.seed = (this.seed + 0x6d2b79f5) | 0; // mulberry32
    let t = Math.imul(this.seed ^ (this.seed >>> 15), 1 | this.seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) % n;
  }

  at(delay, tab, fn, every = 0) {
    const timer = { id: ++this.serial, due: this.now + delay, tab, fn, every };
    this.timers.push(timer);
    return timer;
  }

  clear(timer) {
    if (!timer) return;
    timer.cleared = true; // also where a hung tab has not come to it
    this.timers = this.timers.filter((other) => other !== timer);
  }

  async pass(ms) {
    const end = this.now + ms;
    for (;;) {
      await settle();
      const next = this.timers.reduce((a, b) => (b.due < a.due || (b.due === a.due && b.id < a.id) ? b : a), { due: Infinity });
      if (next.due > end) break;
      this.now = next.due;
      if (next.every) next.due += next.every;
      else this.timers.splice(this.timers.indexOf(next), 1);
      next.tab ? next.tab.do(() => next.cleared || next.fn()) : next.fn();
    }
    this.now = end;
  }

  get head() {
    return this.log.length;
  }

  change() {
    const n = this.log.push(this.log.length + 1);
    for (const source of this.sources) source.send(n);
    return n;
  }

  cut() {
    for (const source of this.sources) source.breakOff();
  }

  open(from = `${this.head}-0`, url = URL_A) {
    const tab = new Tab(this, from, url);
    this.tabs.push(tab);
    return tab;
  }

  get leaders() {
    return [...this.sources].map((source) => source.tab); // one a line
  }

  /** What is wrong with what the tabs showed. */
  complaints() {
    const found = [];
    this.tabs.forEach((tab, i) => {
      if (!tab.alive || tab.hung) return;
      if (tab.resets.some((r) => r.unasked)) found.push(`tab ${i}: a reset that nobody sent`);
      const forgiven = Math.max(0, ...tab.resets.map((r) => r.position));
      const missed = this.log.filter((n) => n > tab.start && n > forgiven && !tab.seen.includes(n));
      const twice = tab.seen.filter((n, at) => tab.seen.indexOf(n) !== at);
      const disordered = tab.seen.filter((n, at) => at > 0 && n < tab.seen[at - 1]);
      if (missed.length) found.push(`tab ${i}: missed ${missed}`);
      if (twice.length) found.push(`tab ${i}: twice ${twice}`);
      else if (disordered.length) found.push(`tab ${i}: out of order ${disordered}`);
    });
    return found;
  }
}

class Tab {
  alive = true;
  hung = false;
  waiting = []; // what it will do when it no longer hangs
  seen = [];
  resets = [];
  states = [];
  page = new EventTarget();
  document = Object.assign(new EventTarget(), { hidden: false });

  constructor(w, from, url) {
    this.world = w;
    this.start = from === '' ? w.head : Number(from.split('-')[0]);
    this.do(() => {
      globalThis.document = this.document;
      globalThis.addEventListener = this.page.addEventListener.bind(this.page);
      this.stream = new w.Stream(url, from);
      this.stream.addEventListener('change', ({ detail }) => this.seen.push(detail.data.n));
      this.stream.addEventListener('reset', ({ detail }) =>
        this.resets.push({ position: Number(this.stream.position.split('-')[0]), unasked: w.oldest === 1, ...detail }),
      );
      this.stream.addEventListener('state', ({ detail }) => this.states.push(detail));
      this.stream.open();
    });
  }

  do(fn) {
    if (this.hung) this.waiting.push(fn);
    else if (this.alive) inTab.run(this, fn);
  }

  say(target, name, more = {}) {
    this.do(() => target.dispatchEvent(Object.assign(new Event(name), more)));
  }

  // A frozen page does nothing, but may get ready for it.
  freeze() {
    this.say(this.document, 'freeze');
    this.hung = true;
  }

  thaw() {
    this.wakeUp();
    this.say(this.document, 'resume');
  }

  wakeUp() {
    this.hung = false;
    for (const fn of this.waiting.splice(0)) this.do(fn);
  }

  // A closed one says so; one that crashed does not.
  close() {
    this.say(this.page, 'pagehide');
    this.die();
  }

  die() {
    this.alive = false;
    const w = this.world;
    for (const source of w.sources) if (source.tab === this) w.sources.delete(source);
    for (const channel of w.channels) if (channel.tab === this) w.channels.delete(channel);
    for (const [name, lock] of w.locks) {
      lock.queue = lock.queue.filter((r) => r.tab !== this);
      if (lock.holder?.tab === this) grantNext(name);
    }
  }
}

// Server-sent events. Messages of one line keep their order.
class Source extends EventTarget {
  static CONNECTING = 0;
  static OPEN = 1;
  static CLOSED = 2;
  readyState = 0;
  lastId = '';
  due = 0;

  constructor(url) {
    super();
    this.tab = inTab.getStore();
    this.w = this.tab.world;
    this.lastId = new URL(url).searchParams.get('lastEventId') ?? '';
    this.w.sources.add(this);
    this.call();
  }

  close() {
    this.readyState = Source.CLOSED;
    this.w.sources.delete(this);
  }

  soon(fn, delay = 1 + this.w.random(5)) {
    if (this.tab.deaf) return;
    this.due = Math.max(this.due, this.w.now + delay);
    this.w.at(this.due - this.w.now, this.tab, () => this.readyState !== Source.CLOSED && fn());
  }

  call() {
    if (++this.w.calls > 2000) return; // a variant may storm the server
    this.soon(() => {
      if (this.w.server === 'gone') return this.breakOff();
      if (this.w.server !== 'up') {
        this.close();
        return this.onerror();
      }
      this.readyState = Source.OPEN;
      const from = this.lastId === '' ? this.w.head : Number(this.lastId.split('-')[0]);
      this.told = Math.max(from, this.w.oldest - 1);
      this.say('open');
      if (this.told > from) this.say('reset', { reason: 'history_lost' }, `${this.told}-0`);
      else this.say('ready', {}, `${this.told}-0`);
      while (this.told < this.w.head) this.send(this.told + 1);
    });
  }

  send(n) {
    if (this.readyState !== Source.OPEN || n !== this.told + 1) return;
    this.told = n;
    this.soon(() => this.say('message', { n, at: '2026-11-20T12:00:00Z' }, `${n}-0`));
  }

  say(name, data = {}, id = '') {
    if (this.readyState !== Source.OPEN) return; // lost on the way
    if (id) this.lastId = id;
    this.dispatchEvent(Object.assign(new Event(name), { data: JSON.stringify(data), lastEventId: this.lastId }));
  }

  breakOff() {
    if (this.readyState === Source.CLOSED) return;
    this.readyState = Source.CONNECTING;
    this.due = this.w.now; // what was under way is lost
    const broken = {};
    this.broken = broken;
    this.soon(() => {
      this.onerror();
      this.soon(() => this.broken === broken && this.call(), 2000);
    }, 1);
  }
}

class Channel {
  constructor(name) {
    Object.assign(this, { name, tab: inTab.getStore(), due: new Map() });
    this.tab.world.channels.add(this);
  }
  postMessage(data) {
    const w = this.tab.world;
    const copy = structuredClone(data);
    for (const other of w.channels) {
      if (other === this || other.name !== this.name || ++w.words > 20_000) continue;
      const due = Math.max(this.due.get(other) ?? 0, w.now + 1 + w.random(5));
      this.due.set(other, due);
      w.at(due - w.now, other.tab, () => w.channels.has(other) && other.onmessage({ data: copy }));
    }
  }
  close() {
    this.tab.world.channels.delete(this);
  }
}

const aborted = () => new DOMException('', 'AbortError');

function grantNext(name) {
  const lock = world.locks.get(name);
  lock.holder = lock.queue.shift() ?? null;
  if (lock.holder) grant(name, lock.holder);
}

function grant(name, request) {
  world.at(1 + world.random(3), request.tab, async () => {
    if (world.locks.get(name).holder !== request) return;
    await request.held();
    if (world.locks.get(name).holder !== request) return;
    request.resolve();
    grantNext(name);
  });
}

const locks = {
  request(name, { signal, steal }, held) {
    const { promise, resolve, reject } = withResolvers();
    const request = { tab: inTab.getStore(), held, resolve, reject };
    if (!world.locks.has(name)) world.locks.set(name, { holder: null, queue: [] });
    const lock = world.locks.get(name);
    signal?.addEventListener('abort', () => {
      if (!lock.queue.includes(request)) return;
      lock.queue.splice(lock.queue.indexOf(request), 1);
      reject(aborted());
    });
    if (steal) {
      const robbed = lock.holder;
      if (robbed) robbed.tab.do(() => robbed.reject(aborted()));
      lock.holder = request;
      grant(name, request);
    } else {
      lock.queue.push(request);
      if (!lock.holder) grantNext(name);
    }
    return promise;
  },
};

function withResolvers() {
  let resolve, reject;
  const promise = new Promise((a, b) => ([resolve, reject] = [a, b]));
  return { promise, resolve, reject };
}

Object.assign(globalThis, {
  location: { href: 'http://localhost/' },
  EventSource: Source,
  BroadcastChannel: Channel,
  setTimeout: (fn, ms = 0) => world.at(ms, inTab.getStore(), fn),
  setInterval: (fn, ms) => world.at(ms, inTab.getStore(), fn, ms),
  clearTimeout: (timer) => world.clear(timer),
  clearInterval: (timer) => world.clear(timer),
  fetch: async () => {
    if (world.server === 'gone') throw new TypeError('nobody there');
    return { status: Number(world.server) || (world.server === 'up' ? 200 : 502), headers: new Headers() };
  },
});
Object.defineProperty(globalThis, 'navigator', { value: { locks } });
Date.now = () => world.now;
Math.random = () => world.random(1e6) / 1e6; // a seed is a story that can be told again
setMaxListeners(0);

// ---- promises ---------------------------------------------------------------

const { Stream } = await import(pathToFileURL(`${process.cwd()}/stream.js`));
const clean = (w) => assert.deepEqual(w.complaints(), []);

async function seven(S = Stream) {
  const w = new World(S);
  for (let i = 0; i < 7; i++) {
    w.open();
    w.change();
  }
  await w.pass(100);
  return w;
}

/** Changes meanwhile, one every few milliseconds. */
async function changes(w, ms) {
  for (let t = 0; t < ms; t += 7) {
    w.change();
    await w.pass(7);
  }
}

test('seven tabs hear everything once, over one line', async () => {
  const w = await seven();
  await changes(w, 500);
  await w.pass(100);
  clean(w);
  assert.equal(w.sources.size, 1);
  for (const tab of w.tabs) assert.equal(tab.stream.state, 'open');
});

for (const [how, end] of [
  ['closes', (tab) => tab.close()],
  ['crashes', (tab) => tab.die()],
  ['drops its line', (tab) => tab.do(() => tab.stream.drop(60_000))],
  ['is put away', (tab) => tab.say(tab.page, 'pagehide')],
  ['freezes', (tab) => tab.freeze()],
]) {
  test(`the tabs go on at once when the leader ${how}`, async () => {
    const w = await seven();
    for (let i = 0; i < 6; i++) {
      await changes(w, 50);
      const [leader] = w.leaders;
      end(leader);
      leader.alive = false; // the judge looks at the others
      await changes(w, 100);
      await w.pass(1000);
      clean(w);
      assert.equal(w.leaders.filter((tab) => tab.alive).length, 1);
    }
  });
}

test('a frozen tab has all of it once when it thaws, and the others nothing twice', async () => {
  const w = await seven();
  const [leader] = w.leaders;
  const follower = w.tabs.find((tab) => tab !== leader);
  leader.freeze();
  follower.freeze();
  await changes(w, 200);
  leader.thaw();
  follower.thaw();
  await changes(w, 200);
  await w.pass(1000);
  clean(w);
  assert.equal(w.sources.size, 1);
});

test('a leader that hangs without a word is robbed when somebody asks, and by itself after the silence', async () => {
  for (const notice of [(w) => w.open(), (w, tab) => tab.say(tab.document, 'visibilitychange'), () => {}]) {
    const w = await seven();
    const [leader] = w.leaders;
    const follower = w.tabs.find((tab) => tab !== leader);
    leader.hung = true;
    await changes(w, 50);
    const late = notice(w, follower);
    await w.pass(notice.length ? 6000 : 62_000);
    await changes(w, 50);
    await w.pass(100);
    assert.equal(w.leaders.filter((tab) => tab !== leader).length, 1, 'one of the others leads');
    leader.wakeUp();
    await changes(w, 50);
    await w.pass(1000);
    clean(w);
    assert.equal(w.sources.size, 1);
    assert.equal((late ?? follower).stream.state, 'open');
  }
});

test('a leader whose line is dead, though it answers, is robbed after the silence', async () => {
  const w = await seven();
  const [leader] = w.leaders;
  leader.deaf = true; // half frozen: it hears the others, not the server
  await changes(w, 50);
  await w.pass(75_000);
  const others = w.tabs.filter((tab) => tab !== leader);
  assert.ok(!w.leaders.includes(leader));
  assert.ok(others.some((tab) => w.leaders.includes(tab)));
  await changes(w, 50);
  await w.pass(100);
  clean(w);
});

test('a page from a cache gets what happened since, and the others nothing twice', async () => {
  const w = await seven();
  await changes(w, 100);
  w.open('2-0');
  await changes(w, 100);
  w.open('1-0');
  w.open('3-0');
  await w.pass(1000);
  clean(w);
  assert.equal(w.sources.size, 1);
});

test('a reset reaches every tab once, also one that was away', async () => {
  const w = await seven();
  const away = w.tabs.find((tab) => !w.leaders.includes(tab));
  away.freeze();
  w.server = 'gone';
  w.cut();
  await w.pass(10);
  for (let i = 0; i < 20; i++) w.change();
  w.oldest = w.head - 5;
  w.server = 'up';
  await w.pass(5000);
  away.thaw();
  await w.pass(5000);
  clean(w);
  assert.deepEqual(w.tabs.map((tab) => tab.resets.length), [1, 1, 1, 1, 1, 1, 1]);
});

test('a refused channel closes all tabs, and an asking one opens all that ask', async () => {
  const w = await seven();
  w.server = '403';
  w.cut();
  await w.pass(10_000);
  for (const tab of w.tabs) assert.deepEqual([tab.stream.state, tab.states.at(-1).status], ['closed', 403]);
  const { calls } = w;
  await w.pass(120_000);
  assert.equal(w.calls, calls, 'nobody calls again');
  w.server = 'up';
  for (const tab of w.tabs) tab.do(() => tab.stream.open());
  await changes(w, 50);
  await w.pass(1000);
  clean(w);
  assert.equal(w.sources.size, 1);
});

test('tabs that ask for other channels have a line of their own', async () => {
  const w = await seven();
  w.open(undefined, '/api/events?channel=b');
  await changes(w, 50);
  await w.pass(100);
  clean(w);
  assert.equal(w.sources.size, 2);
});

test('a pause that a hidden leader sleeps through ends when another tab asks', async () => {
  const w = await seven();
  const [leader] = w.leaders;
  w.server = 'refuses';
  w.cut();
  await w.pass(2500);
  for (const timer of w.timers) if (timer.tab === leader) timer.due += 60_000; // as browsers do to hidden pages
  w.server = 'up';
  w.change();
  await w.pass(10_000);
  clean(w);
});

// Anything in any order, then quiet: the judge looks at who is still there.
async function anything(S, seed) {
  const w = new World(S, seed);
  const away = new Map(); // tab → how it comes back
  const pick = (list) => list[w.random(list.length || 1)];
  const some = () => pick(w.tabs.filter((tab) => tab.alive && !away.has(tab)));
  const deeds = [
    () => w.change(),
    () => w.change(),
    () => w.change(),
    () => w.tabs.filter((tab) => tab.alive).length < 8 && w.open(`${Math.max(w.oldest - 1, w.head - w.random(4))}-0`),
    () => some()?.close(),
    () => w.random(2) && some()?.die(),
    (tab) => tab && (tab.freeze(), away.set(tab, () => tab.thaw())),
    (tab) => tab && ((tab.hung = true), away.set(tab, () => tab.wakeUp())),
    (tab) => tab && (tab.say(tab.page, 'pagehide'), away.set(tab, () => tab.say(tab.page, 'pageshow', { persisted: true }))),
    (tab) => tab?.do(() => tab.stream.drop(w.random(3000))),
    (tab) => tab?.say(tab.document, 'visibilitychange'),
    () => w.cut(),
    () => (w.server = ['up', 'up', 'refuses', 'gone'][w.random(4)]) === 'up' || w.cut(),
    () => {
      const [tab, back] = pick([...away]) ?? [];
      if (tab) back();
      away.delete(tab);
    },
  ];
  for (let i = 0; i < 150; i++) {
    deeds[w.random(deeds.length)](some());
    await w.pass(w.random(w.random(10) ? 40 : 6000));
  }
  w.server = 'up';
  for (const [tab, back] of away) w.random(3) ? back() : (tab.hung = true); // for ever
  await w.pass(120_000);
  w.change();
  await w.pass(1000);
  const there = w.tabs.filter((tab) => tab.alive && !tab.hung);
  const lines = w.leaders.filter((tab) => there.includes(tab)).length;
  const found = w.complaints();
  if (lines !== Math.min(1, there.length)) found.push(`${lines} lines`);
  return found;
}

test('whatever the tabs go through, nothing is missed and nothing told twice', async () => {
  for (let seed = 1; seed <= Number(process.env.SEEDS ?? 60); seed++) assert.deepEqual(await anything(Stream, seed * 7919), [], `seed ${seed}`);
});

// ---- variants that lack something: the judge must see it ---------------------

const broken = [
  ['no dedupe', 'stream.js', '!newer(position, this.position)', 'false', /twice/],
  ['no look for gaps', 'stream.js', 'newer(after, this.position)', 'false', /missed/],
  ['no position on the line', 'line.js', 'this.position ? `', 'false ? `', /reset that nobody sent/],
  ['nobody goes back', 'stream.js', 'line.rewind(position)', 'line.tick()', /missed/],
  ['nobody is robbed', 'stream.js', 'this.#queue(true)', '0', /missed/],
  ['a robbed one goes on', 'stream.js', "if (turn !== this.#turn) return; // we", 'return; // we', /lines/],
];
for (const [what, file, text, instead, complaint] of broken) {
  test(`the judge sees a variant with ${what}`, async () => {
    const dir = `${process.cwd()}/${what.replaceAll(' ', '-')}`;
    for (const name of ['stream.js', 'line.js', 'package.json']) cpSync(name, `${dir}/${name}`);
    const code = readFileSync(file, 'utf8');
    assert.equal(code.split(text).length, 2, `${file} has one ${text}`);
    writeFileSync(`${dir}/${file}`, code.replace(text, instead));
    const variant = await import(pathToFileURL(`${dir}/stream.js`));
    for (let seed = 1; seed <= 60; seed++) {
      if ((await anything(variant.Stream, seed * 7919)).some((c) => complaint.test(c))) return;
    }
    assert.fail('60 runs, and no complaint');
  });
}
